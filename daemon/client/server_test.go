package client

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/overlayd/overlayd/daemon/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A server is a daemon of which a test decides every answer.
type server struct {
	t      testing.TB
	path   string
	answer func(s *session, f wire.RequestFrame)

	listener net.Listener
	running  sync.WaitGroup
	accepted atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// A session is one connection to it.
type session struct {
	net.Conn
	t  testing.TB
	mu sync.Mutex // keeps frames whole
}

// start runs a server on a socket, which answers as answer does.
func start(t testing.TB, answer func(*session, wire.RequestFrame)) *server {
	s := &server{t: t, path: filepath.Join(t.TempDir(), "s"), answer: answer}
	s.listen()
	t.Cleanup(s.stop)
	return s
}

func (s *server) listen() {
	l, err := net.Listen("unix", s.path)
	require.NoError(s.t, err)
	s.listener, s.conns = l, make(map[net.Conn]bool)
	s.running.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			s.mu.Lock()
			s.conns[nc] = true
			s.mu.Unlock()
			s.running.Go(func() { s.serve(nc) })
		}
	})
}

// stop ends the server and all it does.
func (s *server) stop() {
	s.listener.Close()
	s.drop()
	s.running.Wait()
}

// drop ends all connections.
func (s *server) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for nc := range s.conns {
		nc.Close()
	}
}

func (s *server) serve(nc net.Conn) { serve(s.t, nc, s.answer) }

func serve(t testing.TB, nc net.Conn, answer func(*session, wire.RequestFrame)) {
	defer nc.Close()
	ses, in := &session{Conn: nc, t: t}, bufio.NewReader(nc)
	for {
		body, err := wire.ReadFrame(in, nil)
		if err != nil {
			return
		}
		f, err := wire.Decode(body)
		if err != nil {
			t.Errorf("the client sent %s: %v", body, err)
			return
		}
		answer(ses, f.(wire.RequestFrame))
	}
}

// send sends a frame; whether it arrives is the client's affair.
func (s *session) send(f wire.Frame) {
	data, err := wire.AppendFrame(nil, f)
	if err != nil {
		s.t.Errorf("sending: %v", err)
	}
	s.raw(string(data))
}

func (s *session) raw(data string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Write([]byte(data)) //nolint:errcheck // the client may be gone
}

func (s *session) reply(f wire.RequestFrame, r wire.Response) {
	s.send(wire.ResponseFrame{ID: f.ID, Response: r})
}

// greeting is the answer to hello of a daemon with these features.
func greeting(boot string, features ...string) wire.Hello {
	return wire.Hello{Version: 1, Features: features, BootID: boot, Build: "test", Platform: "test", Mode: "tun"}
}

// greeted answers hello, and leaves the rest to answer.
func greeted(answer func(*session, wire.RequestFrame), features ...string) func(*session, wire.RequestFrame) {
	return func(s *session, f wire.RequestFrame) {
		if _, ok := f.Request.(wire.HelloRequest); ok {
			s.reply(f, greeting("boot-1", features...))
			return
		}
		answer(s, f)
	}
}

func ok(s *session, f wire.RequestFrame) { s.reply(f, canned(f.Request)) }

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
)

// canned is an answer of the right type for each request.
func canned(r wire.Request) wire.Response {
	switch r := r.(type) {
	case wire.HelloRequest:
		return greeting("boot-1")
	case wire.SetupGlobalOverlay:
		return wire.BridgeName{Name: "ovl-g"}
	case wire.SetupServiceOverlay:
		return wire.ServiceOverlay{Name: "ovl-b", Mode: wire.ModeShared}
	case wire.AllocateIP:
		return wire.IP{IP: addr("10.0.0.2")}
	case wire.AttachContainer:
		if _, guest := r.Handle.(wire.GuestManaged); guest {
			return wire.GuestConfig{OverlayIP: addr("10.0.0.3"), PrefixLen: 28}
		}
		return wire.Attached{IP: addr("10.0.0.4")}
	case wire.StatusRequest:
		return wire.Status{ServiceCount: 3}
	case wire.ListAttachments:
		return wire.Attachments{Attachments: []wire.Attachment{{Handle: wire.LinuxPID{PID: 1}, Service: r.Service, IP: addr("10.0.0.5")}}}
	case wire.ListServices:
		return wire.Services{Services: []wire.Service{{Service: "web", Mode: wire.ModeShared}}}
	case wire.ListLeases:
		return wire.Leases{Leases: []wire.Lease{{IP: addr("10.0.0.6"), Pool: prefix("10.0.0.0/28")}}}
	case wire.ListPeers:
		return wire.Peers{Peers: []wire.Peer{{PeerStatus: wire.PeerStatus{PublicKey: "k"}, Scope: wire.GlobalScope{}}}}
	case wire.ListDNS:
		return wire.DNS{Zone: "overlay.internal"}
	case wire.SetPeers:
		return wire.PeersSet{Added: uint32(len(r.Peers))}
	case wire.PublishPort:
		return wire.Port{PublishedPort: wire.PublishedPort{Proto: r.Proto, HostPort: 8080, IP: r.IP, TargetPort: r.TargetPort}}
	case wire.ListPorts:
		return wire.Ports{Ports: []wire.PublishedPort{{Proto: wire.UDP, HostPort: 53, IP: addr("10.0.0.7"), TargetPort: 53}}}
	case wire.Resolve:
		return wire.Resolved{Name: r.Name + ".overlay.internal", IPs: []netip.Addr{addr("10.0.0.8")}}
	case wire.Explain:
		return wire.Explanation{Verdict: "dropped", Reason: "no_peer"}
	case wire.Ping:
		return wire.Pong{IP: r.IP, RTT: 250}
	}
	return wire.OK{}
}

// deadline is a context that ends long after a test that passes.
func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// connected dials a server.
func connected(t testing.TB, s *server) *Client {
	return connectedAs(t, Config{Endpoint: s.path, Attempts: Impatient})
}

func connectedAs(t testing.TB, cfg Config) *Client {
	c, err := Dial(deadline(t), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}
