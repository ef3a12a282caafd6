package testnet_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/netstack"
	"github.com/stretchr/testify/require"
)

// newStacks makes two TCP/IP stacks joined by a cable.
func newStacks(t testing.TB, config testnet.CableConfig) (a, b *netstack.Stack) {
	t.Helper()
	stacks := make([]*netstack.Stack, 2)
	for i := range stacks {
		s, err := netstack.New(netstack.Config{Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 24)}})
		require.NoError(t, err)
		stacks[i] = s
	}
	c := testnet.NewCable(stacks[0].Device(), stacks[1].Device(), config)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return stacks[0], stacks[1]
}

// upload sends size random bytes from a to b and returns how long that took. The
// hash of what arrives is that of what was sent.
func upload(t testing.TB, a, b *netstack.Stack, size int64) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	l, err := b.Listen("tcp", "10.0.0.2:80")
	require.NoError(t, err)
	defer l.Close()
	received := make(chan error, 1)
	want, got := sha256.New(), sha256.New()
	go func() {
		c, err := l.Accept()
		if err != nil {
			received <- err
			return
		}
		defer c.Close()
		n, err := io.Copy(got, c)
		if err == nil && n != size {
			err = io.ErrUnexpectedEOF
		}
		received <- err
	}()

	c, err := a.DialContext(ctx, "tcp", "10.0.0.2:80")
	require.NoError(t, err)
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	start := time.Now()
	_, err = io.CopyN(io.MultiWriter(c, want), rand.NewChaCha8([32]byte{1}), size)
	err = errors.Join(err, c.(interface{ CloseWrite() error }).CloseWrite())
	require.NoError(t, errors.Join(err, <-received))
	took := time.Since(start)
	require.Equal(t, want.Sum(nil), got.Sum(nil))
	c.Close()
	return took
}

func TestTCPKeepsItsBytesOverABadLink(t *testing.T) {
	for _, merge := range []bool{false, true} {
		t.Run(fmt.Sprintf("merge=%v", merge), func(t *testing.T) {
			t.Parallel()
			bad := testnet.Link{Delay: time.Millisecond, Jitter: time.Millisecond, Loss: 0.01, Duplicate: 0.01, Reorder: 0.01}
			a, b := newStacks(t, testnet.CableConfig{AB: bad, BA: bad, Merge: merge})
			upload(t, a, b, 4<<20)
			require.NotZero(t, a.Stats().Retransmits)
		})
	}
}

// BenchmarkCable is the cable's ceiling, one TCP connection's at that.
func BenchmarkCable(b *testing.B) {
	for _, merge := range []bool{false, true} {
		b.Run(fmt.Sprintf("merge=%v", merge), func(b *testing.B) {
			s, r := newStacks(b, testnet.CableConfig{Merge: merge})
			b.SetBytes(16 << 20)
			for b.Loop() {
				upload(b, s, r, 16<<20)
			}
		})
	}
}
