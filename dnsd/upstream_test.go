package dnsd

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// A fakeUpstream is a resolver on loopback that answers as a function says, with
// any bytes.
type fakeUpstream struct {
	addr     netip.AddrPort
	asked    atomic.Int32 // over UDP
	askedTCP atomic.Int32
	conns    atomic.Int32
	answer   atomic.Pointer[func(raw []byte, tcp bool) [][]byte]

	mu      sync.Mutex
	clients []netip.AddrPort
	names   []string
}

// answers makes a well-formed upstream of records in text form.
func answers(rcode int, records ...string) func(raw []byte, tcp bool) [][]byte {
	return func(raw []byte, _ bool) [][]byte {
		m := new(dns.Msg)
		if m.Unpack(raw) != nil {
			return nil
		}
		r := new(dns.Msg).SetRcode(m, rcode)
		r.RecursionAvailable = true
		if opt := m.IsEdns0(); opt != nil {
			r.SetEdns0(4096, opt.Do())
		}
		for _, text := range records {
			rr, err := dns.NewRR(text)
			if err != nil {
				panic(err)
			}
			if rr.Header().Rrtype == dns.TypeSOA {
				r.Ns = append(r.Ns, rr)
			} else {
				r.Answer = append(r.Answer, rr)
			}
		}
		packed, err := r.Pack()
		if err != nil {
			panic(err)
		}
		return [][]byte{packed}
	}
}

func (u *fakeUpstream) set(f func(raw []byte, tcp bool) [][]byte) { u.answer.Store(&f) }

// silent never answers.
func silent([]byte, bool) [][]byte { return nil }

func newUpstream(tb testing.TB, f func(raw []byte, tcp bool) [][]byte) *fakeUpstream {
	var listener net.Listener
	var conn net.PacketConn
	for range 20 {
		var err error
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(tb, err)
		if conn, err = net.ListenPacket("udp", listener.Addr().String()); err == nil {
			break
		}
		listener.Close()
	}
	require.NotNil(tb, conn)
	u := serveUpstream(tb, listener, f)
	u.addr = addrPort(conn.LocalAddr())
	var wg sync.WaitGroup
	tb.Cleanup(func() {
		conn.Close()
		wg.Wait()
	})
	wg.Go(func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			u.asked.Add(1)
			u.note(buf[:n], addrPort(from))
			for _, answer := range (*u.answer.Load())(append([]byte(nil), buf[:n]...), false) {
				conn.WriteTo(answer, from)
			}
		}
	})
	return u
}

func (u *fakeUpstream) note(raw []byte, from netip.AddrPort) {
	m := new(dns.Msg)
	if m.Unpack(raw) != nil || len(m.Question) != 1 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clients = append(u.clients, from)
	u.names = append(u.names, m.Question[0].Name)
}

// serveUpstream answers the connections of a listener.
func serveUpstream(tb testing.TB, listener net.Listener, f func(raw []byte, tcp bool) [][]byte) *fakeUpstream {
	u := &fakeUpstream{addr: addrPort(listener.Addr())}
	u.set(f)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	tb.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			u.conns.Add(1)
			wg.Go(func() {
				defer conn.Close()
				for {
					var size [2]byte
					if _, err := io.ReadFull(conn, size[:]); err != nil {
						return
					}
					raw := make([]byte, binary.BigEndian.Uint16(size[:]))
					if _, err := io.ReadFull(conn, raw); err != nil {
						return
					}
					u.askedTCP.Add(1)
					u.note(raw, addrPort(conn.RemoteAddr()))
					for _, answer := range (*u.answer.Load())(raw, true) {
						conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
					}
				}
			})
		}
	})
	return u
}

func (u *fakeUpstream) upstream() Upstream { return Upstream{Addr: u.addr} }
