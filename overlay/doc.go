// Package overlay is a WireGuard node over any device: a kernel's TUN, a TCP/IP
// stack in the program itself, or a test.
//
// A Node takes IP packets from a packet.Device, passes them through its stages
// and sends them, sealed, to the peer whose allowed IPs hold the destination;
// what peers send comes back the other way. Keys, peers and their allowed IPs
// change while it runs, and no change drops a session that it does not concern.
//
//	node, err := overlay.New(overlay.Config{PrivateKey: key, Device: dev})
//	…
//	err = node.SetPeer(ctx, overlay.Peer{
//		PublicKey:  theirs,
//		Endpoint:   "hub.example.net:51820",
//		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.200.0.0/16")},
//	})
//
// # Allowed IPs
//
// An address belongs to one peer. A prefix that equals, holds or lies in one of
// another peer's is refused, and both peers are named, because a plan in which
// two nodes claim an address is a mistake that otherwise shows as traffic going
// missing. The default routes 0.0.0.0/0 and ::/0 are the exception: a peer that
// has one is the way out for what no other peer claims, and others may hold more
// specific prefixes beside it.
package overlay
