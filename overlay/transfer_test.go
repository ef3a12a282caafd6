package overlay_test

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/netstack"
	"github.com/overlayd/overlayd/overlay"
	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

var transferBytes = flag.Int64("transfer", 8<<20, "bytes of each transfer over the damaging link")

// A plainDevice is a device without segmentation offload: what it lends is cut
// before, and what it is given is cut again.
type plainDevice struct {
	packet.Device
	in, out packet.Cutter
	read    *packet.Batch // what is being cut
	next    int
	arena   []byte
}

func newPlainDevice(d packet.Device) *plainDevice {
	return &plainDevice{Device: d, read: packet.NewBatch(0), arena: make([]byte, packet.BatchSize*(1500+packet.Slack))}
}

func (d *plainDevice) ReadBatch(b *packet.Batch) error {
	b.Reset()
	arena := d.arena
	for {
		for !b.Full() {
			segment := d.in.Next()
			if segment == nil {
				break
			}
			data := arena[: copy(arena, segment) : 1500+packet.Slack]
			arena = arena[1500+packet.Slack:]
			b.Append(data, 0)
		}
		switch {
		case b.Full():
			return nil
		case d.next < len(d.read.Packets):
			if err := d.in.Start(&d.read.Packets[d.next]); err != nil {
				return err
			}
			d.next++
		case len(b.Packets) > 0:
			return nil
		default:
			d.next = 0
			if err := d.Device.ReadBatch(d.read); err != nil {
				return err
			}
		}
	}
}

func (d *plainDevice) WriteBatch(b *packet.Batch) error {
	one := packet.NewBatch(b.Lane)
	for i := range b.Packets {
		if !b.Packets[i].Live() {
			continue
		}
		if err := d.out.Start(&b.Packets[i]); err != nil {
			return err
		}
		for s := d.out.Next(); s != nil; s = d.out.Next() {
			one.Reset()
			one.Append(s[:len(s):len(s)], 0)
			if err := d.Device.WriteBatch(one); err != nil {
				return err
			}
		}
	}
	return nil
}

// A transfer keeps its hash over a link that loses one packet in a hundred, lets
// others overtake and doubles some, for every pair of engines, with superpackets
// and without.
func TestATransferSurvivesADamagingLink(t *testing.T) {
	link := testnet.Link{HoldBack: 300 * time.Microsecond, Loss: 0.01, Reorder: 0.01, Duplicate: 0.01}
	for _, sender := range engines {
		for _, receiver := range engines {
			for _, offload := range []bool{true, false} {
				t.Run(fmt.Sprintf("%v to %v, superpackets %v", sender, receiver, offload), func(t *testing.T) {
					t.Parallel()
					damagedTransfer(t, sender, receiver, offload, link)
				})
			}
		}
	}
}

func damagedTransfer(t *testing.T, sender, receiver overlay.Engine, offload bool, link testnet.Link) {
	from, fromNode := newStackNode(t, sender, 1, offload)
	to, toNode := newStackNode(t, receiver, 2, offload)
	loopback := netip.MustParseAddr("127.0.0.1")
	ab, ba := link, link
	ab.Seed, ba.Seed = 1, 2
	relay, err := testnet.OpenRelay(
		netip.AddrPortFrom(loopback, fromNode.ListenPort()), netip.AddrPortFrom(loopback, toNode.ListenPort()), ab, ba)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, relay.Close()) })
	require.NoError(t, fromNode.SetPeer(t.Context(), overlay.Peer{
		PublicKey: toNode.PublicKey(), Endpoint: relay.A().String(), AllowedIPs: []netip.Prefix{stackAddr(2)},
	}))
	require.NoError(t, toNode.SetPeer(t.Context(), overlay.Peer{
		PublicKey: fromNode.PublicKey(), AllowedIPs: []netip.Prefix{stackAddr(1)},
	}))

	listener, err := to.Listen("tcp", ":80")
	require.NoError(t, err)
	sums := make(chan []byte, 1)
	go func() {
		defer close(sums)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		hash := sha256.New()
		if _, err := io.Copy(hash, conn); err == nil {
			sums <- hash.Sum(nil)
		}
	}()
	conn, err := from.DialContext(t.Context(), "tcp", netip.AddrPortFrom(stackAddr(2).Addr(), 80).String())
	require.NoError(t, err)
	hash := sha256.New()
	random := rand.NewChaCha8([32]byte{1})
	_, err = io.CopyN(io.MultiWriter(hash, conn), random, *transferBytes)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	select {
	case sum := <-sums:
		require.Equal(t, hash.Sum(nil), sum)
	case <-time.After(time.Minute):
		require.Fail(t, "the transfer stalled")
	}
	stats, _ := relay.Stats()
	require.Positive(t, stats.Lost)
	require.Positive(t, stats.Reordered)
	require.Positive(t, stats.Duplicated)
}

func stackAddr(n byte) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 8, 0, n}), 32)
}

// newStackNode is a node on a TCP/IP stack with the address stackAddr(n).
func newStackNode(t *testing.T, engine overlay.Engine, n byte, offload bool) (*netstack.Stack, *overlay.Node) {
	stack, err := netstack.New(netstack.Config{
		Addrs: []netip.Prefix{netip.PrefixFrom(stackAddr(n).Addr(), 24)},
		TCP:   netstack.TCP{CongestionControl: "reno"}, // recovers from this much loss the fastest
	})
	require.NoError(t, err)
	device := stack.Device()
	if !offload {
		device = newPlainDevice(device)
	}
	node, err := overlay.New(overlay.Config{PrivateKey: newKey(t), Device: device, Engine: engine, Logger: quiet()})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, node.Close())
		require.NoError(t, stack.Close())
	})
	return stack, node
}
