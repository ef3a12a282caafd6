package netstack

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	addrA4 = netip.MustParsePrefix("10.200.0.1/16")
	addrB4 = netip.MustParsePrefix("10.200.0.2/16")
	addrA6 = netip.MustParsePrefix("fd00:200::1/48")
	addrB6 = netip.MustParsePrefix("fd00:200::2/48")
)

// A wire makes what carries one batch after the other to a device.
type wire func() func(from *packet.Batch, to packet.Device) error

// whole keeps superpackets as they are.
func whole() func(from *packet.Batch, to packet.Device) error {
	return func(from *packet.Batch, to packet.Device) error { return to.WriteBatch(from) }
}

// cut is what a tunnel without merging does: every segment by itself.
func cut() func(from *packet.Batch, to packet.Device) error {
	return segments(func() bool { return true })
}

// merged is what a tunnel does: every segment by itself, and runs of them made
// superpackets again where they arrive.
func merged() func(from *packet.Batch, to packet.Device) error {
	var c packet.Cutter
	m := packet.NewMerger(256 << 10)
	m.UDP = true
	out := packet.NewBatch(0)
	flush := func(to packet.Device) error {
		m.Flush()
		err := to.WriteBatch(out)
		m.Reset(out)
		return err
	}
	m.Reset(out)
	return func(from *packet.Batch, to packet.Device) error {
		for i := range from.Packets {
			if err := c.Start(&from.Packets[i]); err != nil {
				return err
			}
			for s := c.Next(); s != nil; s = c.Next() {
				space := m.Reserve(len(s))
				if space == nil {
					if err := flush(to); err != nil {
						return err
					}
					space = m.Reserve(len(s))
				}
				copy(space, s)
				m.Commit(len(s))
			}
		}
		return flush(to)
	}
}

// lossy is cut, and loses one segment in a hundred.
func lossy() func(from *packet.Batch, to packet.Device) error {
	return segments(func() bool { return rand.IntN(100) != 0 })
}

// segments carries those segments for which pass says so.
func segments(pass func() bool) func(from *packet.Batch, to packet.Device) error {
	var c packet.Cutter
	one := packet.NewBatch(0)
	return func(from *packet.Batch, to packet.Device) error {
		for i := range from.Packets {
			if err := c.Start(&from.Packets[i]); err != nil {
				return err
			}
			for s := c.Next(); s != nil; s = c.Next() {
				if !pass() {
					continue
				}
				one.Reset()
				one.Append(s, 0)
				if err := to.WriteBatch(one); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// pump carries packets from one device to another until one of them is closed.
func pump(from, to packet.Device, w wire) {
	batch, carry := packet.NewBatch(0), w()
	for from.ReadBatch(batch) == nil && carry(batch, to) == nil {
	}
}

// join pumps packets between two devices both ways, and returns what waits for
// the end of that.
func join(a, b packet.Device, ab, ba wire) (wait func()) {
	var pumps sync.WaitGroup
	pumps.Go(func() { pump(a, b, ab) })
	pumps.Go(func() { pump(b, a, ba) })
	return pumps.Wait
}

// newStack makes a stack that the test closes.
func newStack(t testing.TB, config Config) *Stack {
	t.Helper()
	s, err := New(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// newPair makes two stacks, of both families, joined by wires that keep
// superpackets whole.
func newPair(t testing.TB) (a, b *Stack) {
	return newPairOver(t, Config{}, whole, whole)
}

func newPairOver(t testing.TB, config Config, ab, ba wire) (a, b *Stack) {
	t.Helper()
	config.Addrs = []netip.Prefix{addrA4, addrA6}
	a, err := New(config)
	require.NoError(t, err)
	config.Addrs = []netip.Prefix{addrB4, addrB6}
	b, err = New(config)
	require.NoError(t, err)
	wait := join(a.Device(), b.Device(), ab, ba)
	t.Cleanup(func() {
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
		wait()
	})
	return a, b
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
