package daemon

import (
	"net/netip"
	"testing"

	"github.com/overlayd/overlayd/ipam"
	"github.com/stretchr/testify/require"
)

func TestAddressesOfAContainerAreInOnePosition(t *testing.T) {
	pools := []netip.Prefix{netip.MustParsePrefix("10.200.46.224/28"), netip.MustParsePrefix("fd00:200::ee00/120")}
	leases, err := ipam.NewMemory(ipam.Config{Pools: pools})
	require.NoError(t, err)
	lease := func(id string, pools []netip.Prefix) (addrs []netip.Prefix) {
		err := leases.Update(func(tx *ipam.Tx) (err error) {
			addrs, err = allocate(tx, ipam.Owner{Kind: kindContainer, ID: id}, pools)
			return err
		})
		require.NoError(t, err)
		return addrs
	}
	prefixes := func(texts ...string) (all []netip.Prefix) {
		for _, s := range texts {
			all = append(all, netip.MustParsePrefix(s))
		}
		return all
	}

	_, err = leases.AllocateAddr(netip.MustParseAddr("10.200.46.225"), ipam.Owner{Kind: kindReserved, ID: "1"})
	require.NoError(t, err)
	a := lease("a", pools)
	require.Equal(t, prefixes("10.200.46.226/28", "fd00:200::ee02/120"), a)
	require.Empty(t, unpaired(a))
	require.Equal(t, a, lease("a", pools), "who has addresses gets them again")

	_, err = leases.AllocateAddr(netip.MustParseAddr("fd00:200::ee03"), ipam.Owner{Kind: kindReserved, ID: "2"})
	require.NoError(t, err)
	b := lease("b", pools)
	require.Equal(t, prefixes("10.200.46.227/28", "fd00:200::ee01/120"), b, "the position is taken in one pool")
	require.Equal(t, []netip.Addr{b[1].Addr()}, unpaired(b))

	c := lease("c", []netip.Prefix{pools[1], pools[0]})
	require.Equal(t, prefixes("fd00:200::ee04/120", "10.200.46.228/28"), c)
	require.Empty(t, unpaired(c))

	_, err = leases.AllocateAddr(netip.MustParseAddr("fd00:200::eeff"), ipam.Owner{Kind: kindContainer, ID: "d"})
	require.NoError(t, err)
	require.Equal(t, prefixes("fd00:200::eeff/120", "10.200.46.229/28"), lease("d", []netip.Prefix{pools[1], pools[0]}), "the other pool has no such position")
	require.Empty(t, unpaired(prefixes("fd00:200::ee04/120")), "its hardware address is made from it")
}
