package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/overlayd/overlayd/overlay"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

const idlePeers = 1000

// Keepalives as in idle nodes that keep NATs open, of 25 s. Only some seconds are
// measured, and sessions that begin at once would have all of theirs due outside
// of it. So one peer in so many has one that often, and within that time there
// are as many keepalives as there are on average.
const (
	idleKeepalive = 25 * time.Second
	idleTime      = 5 * time.Second
	idleShare     = int(idleKeepalive / idleTime)
)

func keepaliveOf(peer int) time.Duration {
	if peer%idleShare == 0 {
		return idleTime
	}
	return idleKeepalive
}

// An idleNode is a node under measurement, and how its peers reach it.
type idleNode struct {
	public overlay.PublicKey
	port   uint16
	close  func() error
}

// idle measures a node whose peers have a session and nothing to say but
// keepalives. It takes the time it takes.
func idle(ctx context.Context, who side, m *meter, _ time.Duration) ([]float64, error) {
	callers, err := newCallers(idlePeers)
	if err != nil {
		return nil, err
	}
	defer callers.close()
	open := newIdleOverlay
	if who == theirs {
		open = newIdleWireGuardGo
	}
	node, err := open(callers.keys)
	if err != nil {
		return nil, err
	}
	defer node.close()
	if err := callers.call(ctx, node.public, node.port); err != nil {
		return nil, err
	}
	debug.FreeOSMemory() // the handshakes' garbage, which an idle node has long given back
	return m.measure(func() ([]float64, int64, error) {
		before, err := currentUsage()
		if err != nil {
			return nil, 0, err
		}
		start := time.Now()
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case <-time.After(idleTime):
		}
		after, err := currentUsage()
		busy := float64(after.cpu-before.cpu) / float64(time.Since(start))
		return []float64{megabytes(after.rss), busy * 100}, 0, err
	})
}

// idleAddr is the overlay address of a peer.
func idleAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 98, byte(i >> 8), byte(i)})
}

func newIdleOverlay(peers []overlay.PublicKey) (*idleNode, error) {
	s, err := newStack(nearAddr)
	if err != nil {
		return nil, err
	}
	node, err := newNode(overlay.EngineDefault, s.Device())
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	set := make([]overlay.Peer, len(peers))
	for i, key := range peers {
		set[i] = overlay.Peer{PublicKey: key, AllowedIPs: []netip.Prefix{netip.PrefixFrom(idleAddr(i), 32)}, Keepalive: keepaliveOf(i)}
	}
	if err := node.SetPeers(context.Background(), set); err != nil {
		return nil, errors.Join(err, node.Close())
	}
	return &idleNode{public: node.PublicKey(), port: node.ListenPort(), close: node.Close}, nil
}

func newIdleWireGuardGo(peers []overlay.PublicKey) (*idleNode, error) {
	t, _, err := netstack.CreateNetTUN([]netip.Addr{nearAddr}, nil, mtu)
	if err != nil {
		return nil, err
	}
	node, err := newTheirNode(t)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	for i, key := range peers {
		fmt.Fprintf(&text, "public_key=%x\nallowed_ip=%v/32\npersistent_keepalive_interval=%d\n", key[:], idleAddr(i), keepaliveOf(i)/time.Second)
	}
	port, err := node.port()
	if err = errors.Join(err, node.IpcSet(text.String())); err != nil {
		return nil, errors.Join(err, node.Down())
	}
	return &idleNode{public: node.public, port: port, close: node.Down}, nil
}
