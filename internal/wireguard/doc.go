// Package wireguard speaks the WireGuard protocol over a packet.Device and UDP
// sockets, and runs each batch to completion: one goroutine a lane takes packets
// from the device to the wire, one a socket takes them from the wire to the
// device, with no queue between them.
//
// The protocol is that of Donenfeld, "WireGuard: Next Generation Kernel Network
// Tunnel" (NDSS 2017, revision of June 2020), called the whitepaper here.
package wireguard
