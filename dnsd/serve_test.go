package dnsd

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t testing.TB, s *Server, on string) *Listener {
	t.Helper()
	l, err := s.Listen(on)
	require.NoError(t, err)
	return l
}

func exchange(t *testing.T, network, server, name string, recordType uint16) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: 30 * time.Second}
	resp, _, err := c.Exchange(question1(name, recordType), server)
	require.NoError(t, err)
	return resp
}

func TestAZoneIsServedOverUDPAndTCP(t *testing.T) {
	s := testServer(t, Config{Zones: []*Zone{testZone(t)}})
	server := listen(t, s, "127.0.0.1:0").Addr().String()
	for _, network := range []string{"udp", "tcp"} {
		resp := exchange(t, network, server, "web.overlay.internal.", dns.TypeA)
		require.Equal(t, []string{"web.overlay.internal. 30 IN A 10.200.3.4"}, lines(resp.Answer))
		resp = exchange(t, network, server, "away.overlay.internal.", dns.TypeA)
		require.Len(t, resp.Answer, 1, "of the general path")
		resp = exchange(t, network, server, "big.overlay.internal.", dns.TypeTXT)
		require.Equal(t, network == "udp", resp.Truncated)
	}
	s.Close()
	st := s.Stats()
	require.EqualValues(t, 3, st.UDP)
	require.EqualValues(t, 3, st.TCP)
	require.EqualValues(t, 6, st.Responses["NOERROR"])
	require.EqualValues(t, 1, st.Truncated)
}

func TestABindErrorIsReturnedByTheCallThatCausedIt(t *testing.T) {
	s := testServer(t, Config{})
	l := listen(t, s, "127.0.0.1:0")
	addr := l.Addr().String()
	other := testServer(t, Config{})
	_, err := other.Listen(addr)
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	require.ErrorContains(t, err, addr)
	for _, bad := range []string{"127.0.0.1", "192.0.2.1:0", "127.0.0.1:port"} {
		_, err := s.Listen(bad)
		require.Error(t, err, bad)
	}

	t.Run("and nothing stays bound", func(t *testing.T) {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		defer conn.Close()
		_, err = s.Listen(conn.LocalAddr().String())
		require.ErrorIs(t, err, syscall.EADDRINUSE)
		stream, err := net.Listen("tcp", conn.LocalAddr().String())
		require.NoError(t, err)
		stream.Close()
	})
	t.Run("an address can be given up and taken again", func(t *testing.T) {
		require.NoError(t, l.Close())
		require.NoError(t, l.Close())
		again := listen(t, other, addr)
		require.Equal(t, addr, again.Addr().String())
	})
}

func TestAfterCloseNothingIsServed(t *testing.T) {
	s, err := New(Config{Zones: []*Zone{testZone(t)}, Forward: &Forward{}})
	require.NoError(t, err)
	l := listen(t, s, "127.0.0.1:0")
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.Eventually(t, func() bool { return s.Stats().Connections == 1 }, 30*time.Second, time.Millisecond)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	_, err = s.Listen("127.0.0.1:0")
	require.ErrorIs(t, err, net.ErrClosed)
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorIs(t, s.ServePacket(packets), net.ErrClosed)
	require.ErrorIs(t, packets.Close(), net.ErrClosed, "the server has closed it")
	stream, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorIs(t, s.ServeStream(stream), net.ErrClosed)
	_, err = s.NewStage(newFakeDevice(), netip.MustParseAddrPort("10.200.0.53:53"))
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestAnswersComeFromTheAddressThatWasAsked(t *testing.T) {
	s := testServer(t, Config{Zones: []*Zone{testZone(t)}})
	hidden := func(network, on string) uint16 {
		conn, err := net.ListenPacket(network, on)
		require.NoError(t, err)
		socket := newUDPSocket(conn.(*net.UDPConn)) // as on systems without batches
		require.NoError(t, s.ServePacket(socketConn{conn, socket}))
		return addrPort(conn.LocalAddr()).Port()
	}
	l := listen(t, s, "0.0.0.0:0")
	hosts := map[string][]uint16{
		"127.0.0.1": {l.Addr().Port(), hidden("udp4", "0.0.0.0:0")},
		"127.0.0.9": {l.Addr().Port(), hidden("udp4", "0.0.0.0:0")},
	}
	if dual, err := s.Listen("[::]:0"); err == nil {
		hosts["127.0.0.8"] = append(hosts["127.0.0.8"], dual.Addr().Port())
		hosts["::1"] = append(hosts["::1"], dual.Addr().Port(), hidden("udp", "[::]:0"))
	}
	for host, ports := range hosts {
		for _, port := range ports {
			server := netip.AddrPortFrom(netip.MustParseAddr(host), port).String()
			// The client's socket is connected: it hears that address alone.
			for _, name := range []string{"web.overlay.internal.", "away.overlay.internal."} {
				require.NotEmpty(t, exchange(t, "udp", server, name, dns.TypeA).Answer, server)
			}
		}
	}
}

// A socketConn makes a packetSocket look like any socket.
type socketConn struct {
	net.PacketConn
	socket packetSocket
}

type socketPeer struct{ peer }

func (socketPeer) Network() string  { return "udp" }
func (p socketPeer) String() string { return p.peer.addr().String() }

func (c socketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.socket.read(b)
	return n, socketPeer{from}, err
}

func (c socketConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.socket.write(b, to.(socketPeer).peer)
	return len(b), nil
}

func TestAnySocketServes(t *testing.T) {
	s := testServer(t, Config{Zones: []*Zone{testZone(t)}})
	dir := t.TempDir()
	conn, err := net.ListenPacket("unixgram", dir+"/server")
	require.NoError(t, err)
	require.NoError(t, s.ServePacket(conn))
	client, err := net.DialUnix("unixgram", &net.UnixAddr{Name: dir + "/client", Net: "unixgram"}, &net.UnixAddr{Name: dir + "/server", Net: "unixgram"})
	require.NoError(t, err)
	defer client.Close()
	for _, name := range []string{"web.overlay.internal.", "away.overlay.internal."} {
		query, err := question1(name, dns.TypeA).Pack()
		require.NoError(t, err)
		_, err = client.Write(query)
		require.NoError(t, err)
		buf := make([]byte, 512)
		n, err := client.Read(buf)
		require.NoError(t, err)
		resp := new(dns.Msg)
		require.NoError(t, resp.Unpack(buf[:n]))
		require.NotEmpty(t, resp.Answer)
	}
}

func frame(t testing.TB, id uint16, name string, recordType uint16) []byte {
	m := question1(name, recordType)
	m.Id = id
	packed, err := m.Pack()
	require.NoError(t, err)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)
}

func readFrame(t testing.TB, r *bufio.Reader) *dns.Msg {
	var buf []byte
	n, err := readMessage(r, &buf)
	require.NoError(t, err)
	m := new(dns.Msg)
	require.NoError(t, m.Unpack(buf[:n]))
	return m
}

func TestQueriesOfOneConnectionArePipelined(t *testing.T) {
	s := testServer(t, Config{Zones: []*Zone{testZone(t)}})
	conn, err := net.Dial("tcp", listen(t, s, "127.0.0.1:0").Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	var queries []byte
	for i := range 1000 {
		name := []string{"web.overlay.internal.", "away.overlay.internal.", "big.overlay.internal.", "nope.overlay.internal."}[i%4]
		queries = append(queries, frame(t, uint16(i), name, dns.TypeA)...)
	}
	go func() {
		conn.Write(queries)
		conn.(*net.TCPConn).CloseWrite() // and the answers still come
	}()
	r := bufio.NewReader(conn)
	seen := make(map[uint16]bool)
	for range 1000 {
		m := readFrame(t, r)
		require.False(t, seen[m.Id])
		seen[m.Id] = true
		require.Equal(t, m.Id%4 == 3, m.Rcode == dns.RcodeNameError)
	}
	_, err = r.ReadByte()
	require.Error(t, err)
}

func TestAnAnswerDoesNotWaitForAnother(t *testing.T) {
	release := make(chan struct{})
	reply := answers(0, "example.com. 60 IN A 192.0.2.1")
	up := newUpstream(t, func(raw []byte, tcp bool) [][]byte {
		<-release
		return reply(raw, tcp)
	})
	s := forwarding(t, &Forward{Upstreams: []Upstream{up.upstream()}})
	conn, err := net.Dial("tcp", listen(t, s, "127.0.0.1:0").Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write(append(frame(t, 1, "example.com.", dns.TypeA), frame(t, 2, "web.overlay.internal.", dns.TypeA)...))
	require.NoError(t, err)
	r := bufio.NewReader(conn)
	require.EqualValues(t, 2, readFrame(t, r).Id, "RFC 7766 6.2.1.1: out of order")
	close(release)
	require.EqualValues(t, 1, readFrame(t, r).Id)
}

// A pipeListener accepts pipes, whose deadlines know a bubble's time.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{make(chan net.Conn), make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 53} }

// A pipeConn comes from an address of its own.
type pipeConn struct {
	net.Conn
	from netip.AddrPort
}

func (c pipeConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.from) }

func (l *pipeListener) dial(from string) net.Conn {
	ours, theirs := net.Pipe()
	l.conns <- pipeConn{theirs, netip.AddrPortFrom(netip.MustParseAddr(from), 1)}
	return ours
}

func TestConnectionsAreNotKeptForNothing(t *testing.T) {
	bubble := func(name string, cfg Config, test func(t *testing.T, s *Server, l *pipeListener)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg.Zones = []*Zone{testZone(t)}
				s, err := New(cfg)
				require.NoError(t, err)
				l := newPipeListener()
				require.NoError(t, s.ServeStream(onceClosed{l}))
				defer s.Close()
				test(t, s, l)
			})
		})
	}
	closed := func(t *testing.T, c net.Conn) {
		_, err := c.Read(make([]byte, 1))
		require.Error(t, err)
	}
	bubble("RFC 7766 6.2.3: an idle one is closed", Config{}, func(t *testing.T, s *Server, l *pipeListener) {
		c := l.dial("10.0.0.1")
		r := bufio.NewReader(c)
		for range 3 {
			time.Sleep(idleStream - time.Second)
			_, err := c.Write(frame(t, 1, "web.overlay.internal.", dns.TypeA))
			require.NoError(t, err)
			readFrame(t, r)
		}
		began := time.Now()
		closed(t, c)
		require.Equal(t, idleStream, time.Since(began))
	})
	bubble("one that drips is closed", Config{}, func(t *testing.T, s *Server, l *pipeListener) {
		c := l.dial("10.0.0.1")
		began := time.Now()
		for {
			if _, err := c.Write([]byte{1}); err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		require.LessOrEqual(t, time.Since(began), idleStream+time.Second)
	})
	bubble("one that does not read is closed", Config{}, func(t *testing.T, s *Server, l *pipeListener) {
		c := l.dial("10.0.0.1")
		_, err := c.Write(frame(t, 1, "web.overlay.internal.", dns.TypeA))
		require.NoError(t, err)
		time.Sleep(writeStream)
		synctest.Wait()
		require.Zero(t, s.Stats().Connections)
	})
	bubble("the one idle for longest makes room", Config{MaxStreams: 8}, func(t *testing.T, s *Server, l *pipeListener) {
		var conns []net.Conn
		for i := range 8 {
			conns = append(conns, l.dial(fmt.Sprint("10.0.0.", i)))
			synctest.Wait()
			time.Sleep(time.Second / 10)
		}
		_, err := conns[0].Write(frame(t, 1, "web.overlay.internal.", dns.TypeA))
		require.NoError(t, err)
		readFrame(t, bufio.NewReader(conns[0]))
		l.dial("10.0.1.1")
		closed(t, conns[1])
		synctest.Wait()
		require.Equal(t, 8, s.Stats().Connections)
	})
	bubble("a source has its share", Config{MaxStreams: 8}, func(t *testing.T, s *Server, l *pipeListener) {
		l.dial("10.0.0.1")
		l.dial("10.0.0.1")
		closed(t, l.dial("10.0.0.1"))
		l.dial("10.0.0.2")
		synctest.Wait()
		require.Equal(t, 3, s.Stats().Connections)
		require.EqualValues(t, 1, s.Stats().Streams)
	})
}

// A onceClosed listener may be closed twice, as real ones may.
type onceClosed struct{ *pipeListener }

func (l onceClosed) Close() error {
	select {
	case <-l.closed:
		return net.ErrClosed
	default:
		return l.pipeListener.Close()
	}
}

func TestAnAnswerOverTCPMayBeLong(t *testing.T) {
	z := testZone(t)
	require.NoError(t, z.Update(func(tx *Tx) error {
		for i := range 200 {
			if err := tx.Add(Record{Name: "huge", Data: TXT{strings.Repeat("x", 250), fmt.Sprint(i)}}); err != nil {
				return err
			}
		}
		return nil
	}))
	s := testServer(t, Config{Zones: []*Zone{z}})
	server := listen(t, s, "127.0.0.1:0").Addr().String()
	require.Len(t, exchange(t, "tcp", server, "huge.overlay.internal.", dns.TypeTXT).Answer, 200)
	require.True(t, exchange(t, "udp", server, "huge.overlay.internal.", dns.TypeTXT).Truncated)
}
