package ipam_test

import (
	"fmt"
	"net/netip"

	"github.com/overlayd/overlayd/ipam"
)

func Example() {
	cluster := netip.MustParsePrefix("10.200.0.0/16")
	a, err := ipam.NewMemory(ipam.Config{Pools: []netip.Prefix{cluster}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer a.Close()
	for _, id := range []string{"a", "b", "a"} {
		lease, err := a.Allocate(cluster, ipam.Owner{Kind: ipam.KindNode, ID: id})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(id, lease.Prefix())
	}
	_, err = a.AllocateAddr(netip.MustParseAddr("10.200.0.1"), ipam.Owner{Kind: ipam.KindNode, ID: "c"})
	fmt.Println(err)
	// Output:
	// a 10.200.0.1/16
	// b 10.200.0.2/16
	// a 10.200.0.1/16
	// ipam: allocate 10.200.0.1 for node "c": already taken by node "a"
}

func ExampleAuthority_Assign() {
	cluster := netip.MustParsePrefix("10.200.0.0/16")
	a, err := ipam.NewMemory(ipam.Config{Pools: []netip.Prefix{cluster}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer a.Close()
	slice, err := a.Assign(ipam.SubnetRequest{
		Pool: cluster, Owner: ipam.Owner{Kind: ipam.KindNode, ID: "node-a"},
	})
	fmt.Println(slice.Prefix, err)
	web, err := a.Assign(ipam.SubnetRequest{
		Pool: cluster, Owner: ipam.Owner{Kind: ipam.KindService, ID: "web"}, Node: "1",
		Exclude: []netip.Prefix{netip.MustParsePrefix("10.200.74.16/28")}, // somebody's allowed IPs
	})
	fmt.Println(web.Prefix, err)
	nodes, err := a.Snapshot(ipam.KindNode, cluster, 28).MarshalJSON()
	fmt.Println(string(nodes), err)
	// Output:
	// 10.200.181.48/28 <nil>
	// 10.200.74.32/28 <nil>
	// {"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assigned":[["node-a","10.200.181.48/28"]]} <nil>
}

// Both families in one transaction: both addresses, or none.
func ExampleAuthority_Update() {
	v4, v6 := netip.MustParsePrefix("10.200.0.0/16"), netip.MustParsePrefix("fd00:200::/48")
	a, err := ipam.NewMemory(ipam.Config{Pools: []netip.Prefix{v4, v6}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer a.Close()
	err = a.Update(func(tx *ipam.Tx) error {
		for _, id := range []string{"web", "db"} {
			for _, pool := range []netip.Prefix{v4, v6} {
				lease, err := tx.Allocate(pool, ipam.Owner{Kind: "container", ID: id})
				if err != nil {
					return err
				}
				fmt.Println(id, lease.Addr)
			}
		}
		return nil
	})
	fmt.Println(a.Len(), err)
	// Output:
	// web 10.200.0.1
	// web fd00:200::1
	// db 10.200.0.2
	// db fd00:200::2
	// 4 <nil>
}
