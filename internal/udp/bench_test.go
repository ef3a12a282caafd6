package udp

import (
	"fmt"
	"net/netip"
	"testing"
)

// withoutOffload makes a socket send and receive datagrams one by one, as many
// to a system call as there are.
func withoutOffload(open opener) opener {
	return func(p place) (transport, error) {
		t, err := open(p)
		if err == nil {
			disableOffload(t)
		}
		return t, err
	}
}

// BenchmarkBulk sends runs of 45 datagrams, several at a time, and receives them,
// in one goroutine: what the bytes cost, free of scheduling.
func BenchmarkBulk(b *testing.B) {
	for name, open := range map[string]opener{
		"offload": systemOpener(), "batch": withoutOffload(systemOpener()), "plain": openPlain,
	} {
		for _, backlog := range []int{1, 4} {
			b.Run(fmt.Sprintf("%s/backlog=%d", name, backlog), func(b *testing.B) {
				benchmarkBulk(b, open, backlog, 1452*45, 1452)
			})
		}
	}
}

// BenchmarkSmall is the same with lone datagrams of 96 bytes.
func BenchmarkSmall(b *testing.B) {
	for name, open := range map[string]opener{"system": systemOpener(), "plain": openPlain} {
		b.Run(name, func(b *testing.B) { benchmarkBulk(b, open, 32, 96, 96) })
	}
}

func benchmarkBulk(b *testing.B, open opener, backlog, total, seg int) {
	local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	from, to := start(b, Config{}, open), start(b, Config{}, open)
	s := socketFor(b, to, local)
	out := make([]Message, backlog)
	for i := range out {
		out[i] = Message{Data: datagrams(total, seg), Seg: seg, Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, to.Port())}}
	}
	in := make([]Message, 64)
	b.SetBytes(int64(total * backlog))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if n, err := from.Send(0, out); err != nil || n != len(out) {
			b.Fatal(n, err)
		}
		for left := total * backlog; left > 0; {
			n, err := s.Receive(in)
			if err != nil {
				b.Fatal(err)
			}
			for _, m := range in[:n] {
				left -= len(m.Data)
			}
		}
	}
}

// BenchmarkRoundTrip sends one datagram there and back, with a goroutine at
// each end.
func BenchmarkRoundTrip(b *testing.B) {
	for name, open := range map[string]opener{"system": systemOpener(), "plain": openPlain} {
		b.Run(name, func(b *testing.B) {
			local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
			near, far := start(b, Config{}, open), start(b, Config{}, open)
			echo, done := socketFor(b, far, local), make(chan struct{})
			go func() {
				defer close(done)
				ms := make([]Message, 16)
				for {
					n, err := echo.Receive(ms)
					if err != nil {
						return
					}
					far.Send(0, ms[:n])
				}
			}()
			s := socketFor(b, near, local)
			out := []Message{{Data: datagrams(96, 96), Seg: 96, Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, far.Port())}}}
			in := make([]Message, 16)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				near.Send(0, out)
				if _, err := s.Receive(in); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			far.Close()
			<-done
		})
	}
}
