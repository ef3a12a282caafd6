package wireguard

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLoadIsWhatWaits(t *testing.T) {
	var l load
	now := time.Now()
	require.False(t, l.under(now))
	for range loadedHandshakes - 1 {
		require.True(t, l.arrive())
	}
	require.False(t, l.under(now))
	require.True(t, l.arrive())
	require.True(t, l.under(now))

	for range loadedHandshakes {
		l.done()
	}
	require.True(t, l.under(now.Add(loadLinger-1)), "for a second after the last wait")
	require.False(t, l.under(now.Add(loadLinger)))
}

func TestLoadIsBounded(t *testing.T) {
	var l load
	for range maxHandshakes {
		require.True(t, l.arrive())
	}
	for range 3 {
		require.False(t, l.arrive())
	}
	l.done()
	require.True(t, l.arrive(), "one is answered, one is taken")
	require.False(t, l.arrive())
}

func TestLoadCountsManyAtOnce(t *testing.T) {
	var l load
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2 * maxHandshakes {
				if l.arrive() {
					l.under(time.Now())
					l.done()
				}
			}
		})
	}
	wg.Wait()
	require.Zero(t, l.waiting.Load())
}

func TestLimiterTakesABurstAndARate(t *testing.T) {
	var l limiter
	now := time.Now()
	allowed := func(n int, at time.Time) (taken int) {
		for range n {
			if l.allow(source.Addr(), at) {
				taken++
			}
		}
		return taken
	}
	require.Equal(t, 5, allowed(100, now))
	require.Equal(t, 0, allowed(1, now.Add(50*time.Millisecond-1)))
	require.Equal(t, 1, allowed(2, now.Add(50*time.Millisecond)))

	now = now.Add(time.Hour)
	require.Equal(t, 5, allowed(100, now), "a rest fills the burst, no more")
	total := 0
	for ms := 1; ms <= 10_000; ms++ {
		total += allowed(1, now.Add(time.Duration(ms)*time.Millisecond))
	}
	require.Equal(t, 200, total, "ten seconds' worth")
}

func TestLimiterTellsSourcesApart(t *testing.T) {
	for _, test := range []struct {
		name, a, b string
		same       bool
	}{
		{"two IPv4 addresses", "192.0.2.1", "192.0.2.2", false},
		{"an IPv4 address and its mapped form", "192.0.2.1", "::ffff:192.0.2.1", true},
		{"two addresses of an IPv6 /64", "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true},
		{"addresses of two IPv6 /64", "2001:db8::1", "2001:db8:0:1::1", false},
		{"a link-local address on two links", "fe80::1%a", "fe80::1%b", true},
		{"IPv4 and IPv6", "192.0.2.1", "2001:db8::1", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var l limiter
			now := time.Now()
			a, b := netip.MustParseAddr(test.a), netip.MustParseAddr(test.b)
			for range handshakeBurst {
				require.True(t, l.allow(a, now))
			}
			require.False(t, l.allow(a, now))
			require.Equal(t, !test.same, l.allow(b, now))
		})
	}
}

// numbered returns a different address for each number.
func numbered(n uint32) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], n)
	return netip.AddrFrom4(a)
}

func TestLimiterIsBounded(t *testing.T) {
	var l limiter
	now := time.Now()
	for n := range uint32(3 * maxSources) {
		require.True(t, l.allow(numbered(n), now), "a full table locks nobody out")
		require.LessOrEqual(t, len(l.sources), maxSources)
	}
	require.Len(t, l.sources, maxSources)

	now = now.Add(handshakeInterval)
	require.True(t, l.allow(source.Addr(), now))
	require.Len(t, l.sources, 1, "those at rest make room")
}

func TestLimiterKeepsBusySourcesWhenOthersRest(t *testing.T) {
	var l limiter
	now := time.Now()
	for n := range uint32(maxSources - 1) {
		require.True(t, l.allow(numbered(n), now))
	}
	for range handshakeBurst {
		require.True(t, l.allow(source.Addr(), now))
	}
	now = now.Add(handshakeInterval)
	require.True(t, l.allow(numbered(maxSources), now), "the table was full")
	require.Len(t, l.sources, 2)
	require.True(t, l.allow(source.Addr(), now))
	require.False(t, l.allow(source.Addr(), now), "still counted")
}
