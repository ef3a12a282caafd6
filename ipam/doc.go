// Package ipam hands out addresses and subnets, IPv4 and IPv6, each once and each
// to an owner.
//
// An [Authority] has pools, which are prefixes. It gives owners addresses out of
// them, and carves subnets out of them, which are pools again: a cluster's prefix
// is cut into the slices of nodes and the subnets of services, and out of those
// come the addresses of containers. What is taken for one is never there for
// another.
//
//	a, err := ipam.Open("/var/lib/overlayd/leases.db", ipam.Config{Pools: []netip.Prefix{cluster}})
//	slice, err := a.Assign(ipam.SubnetRequest{Pool: cluster, Owner: ipam.Owner{Kind: ipam.KindNode, ID: "node-a"}})
//	lease, err := a.Allocate(slice.Prefix, ipam.Owner{Kind: "container", ID: "c1"})
//
// An owner gets the address it has, or had last, again. A released address rests
// before it goes to another. A pool may be of any size: cost and memory follow
// what is taken, not what there is.
//
// An authority lives in memory ([NewMemory]) or in a file ([Open]), and behaves
// alike. Every method that changes something is one transaction, and so is every
// [Authority.Update], in which there may be many changes, such as an address of
// each family. In a file a transaction counts when it is on the disk; those that
// come while another is being written go to the disk together. A process that is
// killed, or a machine that loses power, loses nothing it was told is done. Readers
// see what is on the disk, and never wait for it.
//
// After a restart [Authority.Reconcile] compares the leases with what is alive.
package ipam
