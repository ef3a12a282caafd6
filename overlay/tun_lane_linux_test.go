package overlay

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var (
	here4, there4 = netip.MustParseAddrPort("10.0.0.1:1000"), netip.MustParseAddrPort("10.0.0.2:2000")
	here6, there6 = netip.MustParseAddrPort("[fd00::1]:1000"), netip.MustParseAddrPort("[fd00::2]:2000")
)

// fakeTUNs are two TUNs whose other side is not a kernel but each other: what is
// written to one, header and packet, is read from the other.
func fakeTUNs(t testing.TB, offloads tunOffloads) (a, b *TUN) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	a = newTUN("a", fds[:1], 1420, offloads)
	b = newTUN("b", fds[1:], 1420, offloads)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func fakeTUN(t testing.TB) *TUN {
	a, _ := fakeTUNs(t, allTUNOffloads)
	return a
}

func payload(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(p)
	return p
}

func TestLentPacketsDoNotTouchEachOther(t *testing.T) {
	a, b := fakeTUNs(t, allTUNOffloads)
	out, in := packet.NewBatch(0), packet.NewBatch(0)
	for _, size := range []int{0, 1, 1392, 60, 1392} {
		out.Append(testnet.UDP(here4, there4, payload(size)), 0)
	}
	out.Append(testnet.TCP(here4, there4, 1, payload(40000)), 1380)
	out.Append(testnet.TCP(here6, there6, 1, payload(1)), 0)
	sent := make([][]byte, len(out.Packets))
	for i, p := range out.Packets {
		sent[i] = bytes.Clone(p.Data)
	}
	require.NoError(t, a.WriteBatch(out))
	require.Len(t, out.Packets, len(sent))

	require.NoError(t, b.ReadBatch(in))
	require.Len(t, in.Packets, len(sent))
	for i := range in.Packets {
		p := &in.Packets[i]
		if p.Seg == 0 {
			require.Equal(t, sent[i], p.Data)
		}
		require.Equal(t, out.Packets[i].Seg, p.Seg)
		require.GreaterOrEqual(t, cap(p.Data), max(1420, len(p.Data))+packet.Slack)
	}
	for i, p := range in.Packets { // each grows as far as it may
		grown := p.Data[:cap(p.Data)]
		for j := range grown {
			grown[j] = byte(i)
		}
	}
	for i, p := range in.Packets {
		require.Equal(t, bytes.Repeat([]byte{byte(i)}, cap(p.Data)), p.Data[:cap(p.Data)])
	}
}

func TestAReadTakesWhatIsThereAndNoMore(t *testing.T) {
	a, b := fakeTUNs(t, allTUNOffloads)
	out, in := packet.NewBatch(0), packet.NewBatch(0)
	write := func(packets, size int) {
		out.Reset()
		for range packets {
			out.Append(testnet.UDP(here4, there4, payload(size)), 0)
		}
		require.NoError(t, a.WriteBatch(out))
		require.Len(t, out.Packets, packets)
	}
	read := func() int {
		require.NoError(t, b.ReadBatch(in))
		return len(in.Packets)
	}
	write(1, 64)
	require.Equal(t, 1, read())
	write(3, 64)
	require.Equal(t, 3, read())
	write(128, 64)
	write(2, 64)
	require.Equal(t, packet.BatchSize, read(), "a full batch")
	require.Equal(t, 2, read(), "the rest")

	// As many of the largest as there are 64 KB in the arena, and then the rest.
	write(3, 60000)
	got := read()
	for got < 3 {
		got += read()
	}
	require.Equal(t, 3, got)
}

func TestWhatTheKernelWouldNotSayIsDropped(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	dev := newTUN("fake", fds[:1], 1420, allTUNOffloads)
	defer dev.Close()
	good := append(make([]byte, virtioHeaderSize), testnet.UDP(here4, there4, payload(10))...)
	for _, frame := range [][]byte{
		{1},                                // not even a header
		append([]byte{0, 99}, good[2:]...), // an unknown kind of superpacket
		good,
	} {
		require.NoError(t, unix.Send(fds[1], frame, 0))
	}
	b := packet.NewBatch(0)
	require.NoError(t, dev.ReadBatch(b))
	require.Len(t, b.Packets, 1)
	require.Equal(t, good[virtioHeaderSize:], b.Packets[0].Data)
	require.Equal(t, 2, b.Drops(packet.Malformed))

	// With nothing left alive it waits on, until the other side ends.
	require.NoError(t, unix.Send(fds[1], []byte{1}, 0))
	require.NoError(t, unix.Close(fds[1]))
	require.ErrorContains(t, dev.ReadBatch(b), "TUN fake: read: unexpected EOF")
}

func TestAWriterDoesNotWaitForAReader(t *testing.T) {
	a, _ := fakeTUNs(t, allTUNOffloads)
	b := packet.NewBatch(0)
	dropped := 0
	for range 100 {
		b.Reset()
		for !b.Full() {
			b.Append(testnet.UDP(here4, there4, payload(1000)), 0)
		}
		b.Packets[0].Drop(packet.Filtered)
		require.NoError(t, a.WriteBatch(b))
		dropped += b.Drops(packet.DeviceFull)
	}
	require.Greater(t, dropped, 10000)
}

func TestALaneThatIsNotThereIsAnError(t *testing.T) {
	dev := fakeTUN(t)
	for _, lane := range []int{-1, 1} {
		require.ErrorContains(t, dev.ReadBatch(packet.NewBatch(lane)), "no lane")
		require.ErrorContains(t, dev.WriteBatch(packet.NewBatch(lane)), "no lane")
	}
}

func TestCloseUnderTraffic(t *testing.T) {
	for range 10 {
		a, b := fakeTUNs(t, allTUNOffloads)
		var all sync.WaitGroup
		started := make(chan struct{}, 6)
		for _, dev := range []*TUN{a, b} {
			all.Go(func() {
				batch := packet.NewBatch(0)
				for {
					if err := dev.ReadBatch(batch); err != nil {
						if !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrUnexpectedEOF) {
							t.Error(err)
						}
						return
					}
				}
			})
			for range 3 {
				all.Go(func() {
					batch := packet.NewBatch(0)
					small := testnet.UDP(here4, there4, payload(100))
					super := testnet.TCP(here4, there4, 1, payload(5000))
					for n := 0; ; n++ {
						batch.Reset()
						batch.Append(small, 0)
						batch.Append(super, 1380)
						if err := dev.WriteBatch(batch); err != nil {
							require.ErrorIs(t, err, net.ErrClosed)
							return
						}
						if n == 10 {
							started <- struct{}{}
						}
					}
				})
			}
		}
		for range 6 {
			<-started
		}
		for range 2 {
			all.Go(func() { a.Close() })
			all.Go(func() { b.Close() })
		}
		all.Wait()
		require.ErrorIs(t, a.ReadBatch(packet.NewBatch(0)), net.ErrClosed)
	}
}

func TestReadsAndWritesDoNotAllocate(t *testing.T) {
	for name, offloads := range map[string]tunOffloads{"whole": allTUNOffloads, "cut": 0} {
		t.Run(name, func(t *testing.T) {
			a, b := fakeTUNs(t, offloads)
			out, in := packet.NewBatch(0), packet.NewBatch(0)
			small := testnet.UDP(here4, there4, payload(64))
			large := testnet.UDP(here6, there6, payload(4000))
			super := testnet.TCP(here4, there4, 1, payload(10*1380))
			datagrams := testnet.UDP(here6, there6, payload(10*1000))
			work := bytes.Clone(super)
			work6 := bytes.Clone(datagrams)
			require.Zero(t, testing.AllocsPerRun(200, func() {
				out.Reset()
				out.Append(small, 0)
				out.Append(large, 0)
				copy(work, super) // what is cut is gone
				out.Append(work, 1380)
				copy(work6, datagrams)
				out.Append(work6, 1000)
				if err := a.WriteBatch(out); err != nil || len(out.Packets) != 4 {
					panic("not written")
				}
				if err := b.ReadBatch(in); err != nil || len(in.Packets) < 4 {
					panic("not read")
				}
			}))
		})
	}
}
