package overlay

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/overlayd/overlayd/internal/wireguard"
	"github.com/overlayd/overlayd/packet"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// wireGuardGo is wireguard-go's device as an engine.
//
// What it drops without a word, such as datagrams that fail authentication, is in
// no counter of this engine. Nor does it answer packets nobody takes with ICMP
// errors, as ours does.
type wireGuardGo struct {
	device      *device.Device
	adapter     *tunAdapter
	port        uint16
	log         *slog.Logger
	unreachable func([32]byte)

	mu     sync.Mutex // orders changes; guards peers and closed
	peers  map[[32]byte]*wireGuardGoPeer
	closed bool

	// wireguard-go calls the logger with locks of its own held, and waits for
	// timers that log: so handles has a lock under which nothing is called.
	handlesMu sync.Mutex
	handles   map[*device.Peer][32]byte
}

type wireGuardGoPeer struct {
	wireguard.Peer
	handle  *device.Peer
	traffic peerTraffic
}

func newWireGuardGo(cfg wireguard.Config) (engine, error) {
	e := &wireGuardGo{
		adapter:     newTunAdapter(cfg.Device, cfg.Stages, cfg.Logger),
		log:         cfg.Logger,
		unreachable: cfg.Unreachable,
		peers:       make(map[[32]byte]*wireGuardGoPeer),
		handles:     make(map[*device.Peer][32]byte),
	}
	e.device = device.NewDevice(e.adapter, conn.NewDefaultBind(), e.logger())
	err := e.open(cfg)
	if err != nil {
		close(e.adapter.events)
		e.device.Close()
		return nil, err
	}
	e.adapter.start()
	return e, nil
}

// open sets what is the device's own, and opens its sockets.
func (e *wireGuardGo) open(cfg wireguard.Config) error {
	if err := e.device.SetPrivateKey(device.NoisePrivateKey(cfg.PrivateKey)); err != nil {
		return err
	}
	if err := e.device.IpcSet(fmt.Sprintf("listen_port=%d\n", cfg.ListenPort)); err != nil {
		return err
	}
	if err := e.device.Up(); err != nil {
		return err
	}
	if err := e.device.BindSetMark(cfg.FwMark); err != nil {
		return err
	}
	e.port = cfg.ListenPort // wireguard-go forgets it where the kernel has no IPv6
	return e.get(func(key, value string) error {
		if key != "listen_port" {
			return nil
		}
		port, err := strconv.ParseUint(value, 10, 16)
		e.port = uint16(port)
		return err
	})
}

// logger passes wireguard-go's log on, and learns from its wording what there is
// no other way to learn. engine_wireguardgo_test.go holds it to that wording.
func (e *wireGuardGo) logger() *device.Logger {
	return &device.Logger{
		Verbosef: func(format string, args ...any) {
			switch format {
			case "%s - Handshake did not complete after %d seconds, retrying (try %d)":
				e.handshakeFailed(args[0])
			case "IPv4 packet with disallowed source address from %v", "IPv6 packet with disallowed source address from %v":
				e.adapter.drop(packet.NotAllowed, 1)
			case "Packet with invalid IP version from %v":
				e.adapter.drop(packet.Malformed, 1)
			}
			e.logf(slog.LevelDebug, format, args)
		},
		Errorf: func(format string, args ...any) {
			switch format {
			case "%v - Failed to send data packets: %v":
				e.adapter.drop(packet.SendFailed, 1)
				e.logf(slog.LevelDebug, format, args) // as often as there are packets
			case "%v - Failed to send handshake initiation: %v": // ordinary for a peer that calls us
				e.logf(slog.LevelDebug, format, args)
			case "Unable to update bind: %v": // New returns it
				e.logf(slog.LevelDebug, format, args)
			default:
				e.logf(slog.LevelWarn, format, args)
			}
		},
	}
}

func (e *wireGuardGo) logf(level slog.Level, format string, args []any) {
	if ctx := context.Background(); e.log.Enabled(ctx, level) {
		e.log.Log(ctx, level, "wireguard-go: "+fmt.Sprintf(format, args...))
	}
}

func (e *wireGuardGo) handshakeFailed(handle any) {
	p, ok := handle.(*device.Peer)
	if !ok {
		return
	}
	e.handlesMu.Lock()
	key, ok := e.handles[p]
	e.handlesMu.Unlock()
	if ok {
		e.unreachable(key)
	}
}

func (e *wireGuardGo) SetPeers(peers []wireguard.Peer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	keep := make(map[[32]byte]bool, len(peers))
	for _, p := range peers {
		keep[p.PublicKey] = true
	}
	var gone [][32]byte
	for key := range e.peers {
		if !keep[key] {
			gone = append(gone, key)
		}
	}
	return e.change(peers, gone)
}

func (e *wireGuardGo) SetPeer(p wireguard.Peer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change([]wireguard.Peer{p}, nil)
}

func (e *wireGuardGo) RemovePeer(key [32]byte) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.peers[key] == nil {
		return false
	}
	return e.change(nil, [][32]byte{key}) == nil
}

// change sets and removes peers in one configuration message; e.mu is held.
//
// It says only what is different, since "replace_allowed_ips" would leave a peer
// without any for a moment. All prefixes are added before any is taken away:
// adding moves a prefix from its old peer, which then has it no longer to lose.
func (e *wireGuardGo) change(set []wireguard.Peer, gone [][32]byte) error {
	if e.closed {
		return errClosed
	}
	peers := make([]*wireGuardGoPeer, len(set))
	count := len(e.peers) // those that go, go last
	var text strings.Builder
	for i, p := range set {
		if peers[i] = e.peers[p.PublicKey]; peers[i] == nil {
			peers[i] = new(wireGuardGoPeer)
			count++
		}
		describe(&text, peers[i].Peer, p)
	}
	for i, p := range set {
		if lost := missing(peers[i].AllowedIPs, p.AllowedIPs); len(lost) > 0 {
			fmt.Fprintf(&text, "public_key=%x\n", p.PublicKey)
			for _, prefix := range lost {
				fmt.Fprintf(&text, "allowed_ip=-%v\n", prefix)
			}
		}
	}
	for _, key := range gone {
		fmt.Fprintf(&text, "public_key=%x\nremove=true\n", key)
	}
	if count > device.MaxPeers {
		return fmt.Errorf("wireguard-go takes at most %d peers", device.MaxPeers)
	}
	if err := e.device.IpcSet(text.String()); err != nil {
		return err
	}
	e.apply(set, peers, gone)
	return nil
}

// describe adds to a configuration message what makes old, the zero Peer for a
// new one, into p, except for the prefixes to take away.
func describe(text *strings.Builder, old, p wireguard.Peer) {
	fmt.Fprintf(text, "public_key=%x\n", p.PublicKey)
	if p.PresharedKey != old.PresharedKey {
		fmt.Fprintf(text, "preshared_key=%x\n", p.PresharedKey)
	}
	if p.Endpoint.IsValid() {
		fmt.Fprintf(text, "endpoint=%v\n", p.Endpoint)
	}
	if p.Keepalive != old.Keepalive {
		fmt.Fprintf(text, "persistent_keepalive_interval=%d\n", p.Keepalive/time.Second)
	}
	for _, prefix := range missing(p.AllowedIPs, old.AllowedIPs) {
		fmt.Fprintf(text, "allowed_ip=%v\n", prefix)
	}
}

// missing is what of a is not in b; b is sorted.
func missing(a, b []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range a {
		if _, found := slices.BinarySearchFunc(b, p, netip.Prefix.Compare); !found {
			out = append(out, p)
		}
	}
	return out
}

// apply records what change told the device, in the same order.
func (e *wireGuardGo) apply(set []wireguard.Peer, peers []*wireGuardGoPeer, gone [][32]byte) {
	e.handlesMu.Lock()
	defer e.handlesMu.Unlock()
	routes := e.adapter.routes.Load()
	release := func(prefixes []netip.Prefix, from *peerTraffic) {
		for _, prefix := range prefixes {
			if owner, _ := routes.Get(prefix); owner == from {
				routes = routes.DeletePersist(prefix)
			}
		}
	}
	for i, p := range set {
		for _, prefix := range missing(p.AllowedIPs, peers[i].AllowedIPs) {
			routes = routes.InsertPersist(prefix, &peers[i].traffic)
		}
	}
	for i, p := range set {
		release(missing(peers[i].AllowedIPs, p.AllowedIPs), &peers[i].traffic)
		peers[i].Peer = p
		if e.peers[p.PublicKey] == nil {
			e.peers[p.PublicKey] = peers[i]
			peers[i].handle = e.device.LookupPeer(p.PublicKey)
			e.handles[peers[i].handle] = p.PublicKey
		}
	}
	for _, key := range gone {
		p := e.peers[key]
		release(p.AllowedIPs, &p.traffic)
		delete(e.peers, key)
		delete(e.handles, p.handle)
	}
	e.adapter.routes.Store(routes)
}

func (e *wireGuardGo) Peers() []wireguard.PeerStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	status := make([]wireguard.PeerStatus, 0, len(e.peers))
	var now *wireguard.PeerStatus
	err := e.get(func(key, value string) error {
		if key == "public_key" {
			raw, err := hex.DecodeString(value)
			if err != nil || len(raw) != 32 {
				return fmt.Errorf("public_key=%s", value)
			}
			now = nil
			if p := e.peers[[32]byte(raw)]; p != nil {
				status = append(status, wireguard.PeerStatus{
					Peer:      p.Peer,
					RxPackets: p.traffic.rxPackets.Load(),
					TxPackets: p.traffic.txPackets.Load(),
				})
				now = &status[len(status)-1]
				now.Endpoint = netip.AddrPort{}
			}
			return nil
		}
		if now == nil {
			return nil // of the device itself
		}
		return readPeerLine(now, key, value)
	})
	if err != nil {
		e.log.Error("overlay: wireguard-go's configuration", "err", err)
	}
	return status
}

// readPeerLine takes one line about a peer from what wireguard-go tells.
func readPeerLine(p *wireguard.PeerStatus, key, value string) (err error) {
	var n int64
	switch key {
	case "endpoint":
		p.Endpoint, err = netip.ParseAddrPort(value)
	case "rx_bytes":
		p.RxBytes, err = strconv.ParseUint(value, 10, 64)
	case "tx_bytes":
		p.TxBytes, err = strconv.ParseUint(value, 10, 64)
	case "last_handshake_time_sec":
		if n, err = strconv.ParseInt(value, 10, 64); n != 0 {
			p.LastHandshake = time.Unix(n, 0)
		}
	case "last_handshake_time_nsec":
		if n, err = strconv.ParseInt(value, 10, 64); !p.LastHandshake.IsZero() {
			p.LastHandshake = p.LastHandshake.Add(time.Duration(n))
		}
	}
	return err
}

// get reads what wireguard-go tells about itself, line by line.
func (e *wireGuardGo) get(line func(key, value string) error) error {
	var text bytes.Buffer
	if err := e.device.IpcGetOperation(&text); err != nil {
		return err
	}
	defer clear(text.Bytes()) // the private key is in it
	for lines := bufio.NewScanner(bytes.NewReader(text.Bytes())); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), "=")
		if err := line(key, value); err != nil {
			return err
		}
	}
	return nil
}

func (e *wireGuardGo) Stats() wireguard.Stats { return e.adapter.stats() }

func (e *wireGuardGo) Port() uint16 { return e.port }

func (e *wireGuardGo) Done() <-chan struct{} { return e.device.Wait() }

func (e *wireGuardGo) Err() error {
	select {
	case <-e.adapter.failed:
		return fmt.Errorf("overlay: read from device %s: %w", e.adapter.device.Name(), e.adapter.failure)
	default:
		return nil
	}
}

// Close ends wireguard-go. Its workers, for which it has no wait, end a moment
// later by themselves.
func (e *wireGuardGo) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.device.Close()
	e.adapter.running.Wait()
	return e.device.SetPrivateKey(device.NoisePrivateKey{})
}
