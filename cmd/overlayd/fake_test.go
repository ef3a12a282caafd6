package main

import (
	"bufio"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/wire"
)

// A fake is a daemon that answers as it is told to, and does nothing.
type fake struct {
	listener net.Listener
	answer   func(wire.Request) wire.Response // nil: none, ever
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// shortDir is a folder for a test in which sockets have short paths.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// startFake starts one that answers, or that is "silent" after its greeting, "mute"
// even then, or refuses everything with a code.
func startFake(path, how string) (*fake, error) {
	f := &fake{conns: make(map[net.Conn]bool)}
	switch how {
	case "":
		f.answer = canned
	case "silent":
		f.answer = func(r wire.Request) wire.Response { return greeted(r, nil) }
	case "mute":
		f.answer = func(wire.Request) wire.Response { return nil }
	default:
		refusal := wire.Err{Message: "it was to be refused", Code: wire.Code(how)}
		f.answer = func(r wire.Request) wire.Response { return greeted(r, refusal) }
	}
	var err error
	if f.listener, err = net.Listen("unix", path); err != nil {
		return nil, err
	}
	f.running.Go(f.accept)
	return f, nil
}

// fakeDaemon is "fake SOCKET [HOW]".
func fakeDaemon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: fake SOCKET [silent|mute|CODE]")
	}
	f, err := startFake(ts.MkAbs(args[0]), strings.Join(args[1:], ""))
	ts.Check(err)
	ts.Defer(f.stop)
}

func (f *fake) accept() {
	for {
		nc, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns[nc] = true
		f.mu.Unlock()
		f.running.Go(func() { f.serve(nc) })
	}
}

func (f *fake) stop() {
	f.listener.Close()
	f.mu.Lock()
	for nc := range f.conns {
		nc.Close()
	}
	f.mu.Unlock()
	f.running.Wait()
}

// serve answers one client; to one that subscribes it tells all there is to tell.
func (f *fake) serve(nc net.Conn) {
	defer nc.Close()
	in := bufio.NewReader(nc)
	for {
		body, err := wire.ReadFrame(in, nil)
		if err != nil {
			return
		}
		frame, err := wire.Decode(body)
		if err != nil {
			panic(err)
		}
		req := frame.(wire.RequestFrame)
		res := f.answer(req.Request)
		if res == nil {
			continue
		}
		frames := []wire.Frame{wire.ResponseFrame{ID: req.ID, Response: res}}
		if _, ok := req.Request.(wire.SubscribeEvents); ok {
			for _, e := range happenings {
				frames = append(frames, wire.EventFrame{Event: e})
			}
		}
		for _, frame := range frames {
			data, err := wire.AppendFrame(nil, frame)
			if err != nil {
				panic(err)
			}
			if _, err := nc.Write(data); err != nil {
				return
			}
		}
		if _, ok := req.Request.(wire.Shutdown); ok {
			f.listener.Close() // which takes the socket with it
		}
	}
}

// greeted answers hello, and everything else with res.
func greeted(r wire.Request, res wire.Response) wire.Response {
	if _, ok := r.(wire.HelloRequest); ok {
		return wire.Hello{Version: 1, BootID: "boot", Build: "test", Platform: "test", Mode: "tun"}
	}
	return res
}

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
)

const (
	keyA = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
	keyB = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
)

var peerB = wire.PeerStatus{
	PublicKey: keyB, Endpoint: "b.example:51420", AllowedIPs: "10.200.7.16/28,fd00:200::7:10/124", LastHandshake: 1,
	Address: addr("203.0.113.9"), Port: 51420, HandshakeAge: 75, RxBytes: 3 << 30, TxBytes: 1500, Healthy: true,
}

// happenings are an event of each kind.
var happenings = []wire.Event{
	wire.PeerHealthChanged{Pubkey: keyB, Healthy: false},
	wire.PeerHealthChanged{Pubkey: keyB, Healthy: true},
	wire.NATEndpointChanged{Pubkey: keyB, Endpoint: "198.51.100.4:40123"},
	wire.AttachmentChanged{Handle: wire.LinuxPID{PID: 4711}, Service: "web", IP: addr("10.200.74.18"), Attached: true},
	wire.AttachmentChanged{Handle: wire.GuestManaged{ID: "vm"}, Service: "web", IP: addr("10.200.74.19"), Reason: "it died"},
	wire.LeasesLow{Pool: prefix("10.200.74.16/28"), Service: "web", Used: 12, Size: 13},
	wire.Degraded{Part: "dns", Reason: "port 53 is taken\x1b[2J\nby another"},
	wire.Recovered{Part: "dns"},
}

// canned is an answer of the right type for each request.
func canned(r wire.Request) wire.Response {
	switch r := r.(type) {
	case wire.SetupGlobalOverlay:
		return wire.BridgeName{Name: "ovl-prod-1-g"}
	case wire.SetupServiceOverlay:
		return wire.ServiceOverlay{Name: "ovl-prod-1-web-b", Mode: wire.ModeShared}
	case wire.AllocateIP:
		return wire.IP{IP: addr("10.200.74.20")}
	case wire.AttachContainer:
		if _, guest := r.Handle.(wire.GuestManaged); guest {
			return wire.GuestConfig{OverlayIP: addr("10.200.74.19"), PrefixLen: 28, PrivateKey: keyA, PublicKey: keyB}
		}
		return wire.Attached{IP: addr("10.200.74.18"), Interface: "eth0"}
	case wire.StatusRequest:
		return status
	case wire.ListAttachments:
		return wire.Attachments{Attachments: []wire.Attachment{{
			Handle: wire.LinuxPID{PID: 4711}, Service: "web", IP: addr("10.200.74.18"),
			Addresses: []netip.Prefix{prefix("10.200.74.18/28"), prefix("fd00:200::12/120")},
			Interface: "eth0", HostInterface: "ovl-0a1b2c3d-s",
		}}}
	case wire.ListServices:
		return wire.Services{Services: []wire.Service{
			{Service: "web", Mode: wire.ModeShared, Name: "ovl-prod-1-web-b", Subnets: []netip.Prefix{prefix("10.200.74.16/28")}, AttachmentCount: 1},
			{Service: "db", Mode: wire.ModeDedicated, Name: "ovl-prod-1-db-b", Subnets: []netip.Prefix{prefix("10.200.9.0/28")}, Interface: "ovl-prod-1-db-d", PublicKey: keyA, ListenPort: 51421},
		}}
	case wire.ListLeases:
		return wire.Leases{Leases: []wire.Lease{{IP: addr("10.200.74.18"), Pool: prefix("10.200.74.16/28"), Kind: "container", Owner: "4711"}}}
	case wire.ListPeers:
		peer := wire.Peer{PeerStatus: peerB, Scope: wire.GlobalScope{}}
		if r.Scope != nil {
			peer.Scope = r.Scope
		}
		return wire.Peers{Peers: []wire.Peer{peer}}
	case wire.ListDNS:
		return wire.DNS{Zone: "overlay.internal", Records: []wire.DNSRecord{{Name: "api", IP: addr("10.200.74.18"), TTL: 30}}}
	case wire.SetPeers:
		return wire.PeersSet{Added: uint32(len(r.Peers))}
	case wire.PublishPort:
		return wire.Port{PublishedPort: wire.PublishedPort{Proto: r.Proto, HostPort: 8080, IP: r.IP, TargetPort: r.TargetPort}}
	case wire.ListPorts:
		return wire.Ports{}
	case wire.Resolve:
		return wire.Resolved{Name: r.Name + ".overlay.internal", IPs: []netip.Addr{addr("10.200.74.18")}, TTL: 30}
	case wire.Explain:
		return wire.Explanation{Verdict: "dropped", Reason: "no_peer", Path: []wire.Hop{
			{Part: "route", Detail: "by " + string(r.Proto) + " out of ovl-prod-1-g"}, {Part: "peer", Detail: "none has it"},
		}}
	case wire.Ping:
		return wire.Pong{IP: r.IP, RTT: 250, Pubkey: keyB}
	}
	return greeted(r, wire.OK{})
}

var status = wire.Status{
	Interface: "ovl-prod-1-g", NodeIP: addr("10.200.7.1"), PublicKey: keyA, OverlayCIDR: "10.200.0.0/16", SliceCIDR: "10.200.7.0/28",
	PeerCount: 1, ServiceCount: 2, Peers: []wire.PeerStatus{peerB},
	DedicatedServices: []wire.DedicatedService{{Service: "db", Interface: "ovl-prod-1-db-d", PublicKey: keyA, ListenPort: 51421, OverlayIP: addr("10.200.9.14"), Subnet: "10.200.9.0/28"}},
	Version:           "v1.2.3", BootID: "boot", Mode: "tun", Uptime: 7500, ListenPort: 51420, MTU: 1420,
	Addresses:       []netip.Prefix{prefix("10.200.7.1/16"), prefix("fd00:200::7:1/48")},
	AttachmentCount: 1,
	Leases:          []wire.PoolStatus{{Pool: prefix("10.200.7.0/28"), Used: 1, Size: 14}, {Pool: prefix("fd00:200::/48"), Used: 1, Size: 1<<64 - 1}},
	DNS:             wire.DNSStatus{Zone: "overlay.internal", Addresses: []netip.Addr{addr("10.200.7.1")}, Names: 1, Queries: 12, Failures: 2},
	NAT:             wire.NATStatus{PortCount: 1},
	Drops:           []wire.DropCount{{Reason: "no_peer", Packets: 3}},
	Warnings:        []string{"the key set by set_local_wg_pubkey is not this node's"},
}
