package ipam

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

var cluster = netip.MustParsePrefix("10.200.0.0/16")

func node(id string) Owner { return Owner{Kind: KindNode, ID: id} }

func memory(t *testing.T, c Config) *Authority {
	t.Helper()
	a, err := NewMemory(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.Close()) })
	return a
}

func TestTwoOwnersGetTheTwoLowestAddresses(t *testing.T) {
	a := memory(t, Config{Pools: []netip.Prefix{cluster}})
	first, err := a.Allocate(cluster, node("a"))
	require.NoError(t, err)
	second, err := a.Allocate(cluster, node("b"))
	require.NoError(t, err)
	require.Equal(t, "10.200.0.1/16", first.Prefix().String())
	require.Equal(t, "10.200.0.2/16", second.Prefix().String())

	again, err := a.Allocate(cluster, node("a"))
	require.NoError(t, err)
	require.Equal(t, first, again)
}

func TestErrorsSayWhatIsInTheWay(t *testing.T) {
	small := netip.MustParsePrefix("192.0.2.0/30")
	a := memory(t, Config{Pools: []netip.Prefix{small}})
	one, err := a.Allocate(small, node("a"))
	require.NoError(t, err)
	_, err = a.Allocate(small, node("b"))
	require.NoError(t, err)

	_, err = a.Allocate(small, node("c"))
	require.ErrorIs(t, err, ErrExhausted)
	require.EqualError(t, err, `ipam: allocate from 192.0.2.0/30 for node "c": no free address or subnet is left`)

	_, err = a.AllocateAddr(one.Addr, node("c"))
	require.ErrorIs(t, err, ErrTaken)
	require.EqualError(t, err, `ipam: allocate 192.0.2.1 for node "c": already taken by node "a"`)

	_, err = a.AllocateAddr(netip.MustParseAddr("198.51.100.1"), node("c"))
	require.ErrorIs(t, err, ErrOutOfRange)

	_, err = a.AllocateAddr(netip.MustParseAddr("192.0.2.3"), node("c"))
	require.ErrorIs(t, err, ErrNotUsable)

	require.ErrorIs(t, a.Release(Lease{Addr: one.Addr, Owner: node("c")}), ErrNotHeld)
	require.NoError(t, a.Release(one))
	require.ErrorIs(t, a.Release(one), ErrNotHeld)

	require.NoError(t, a.Close())
	_, err = a.Allocate(small, node("c"))
	require.ErrorIs(t, err, net.ErrClosed)
}
