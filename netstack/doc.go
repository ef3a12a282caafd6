// Package netstack is a TCP/IP stack in user space behind a packet.Device: what
// a kernel is to a TUN device, without one and without any privilege. It runs
// the same on every operating system.
//
// A Stack has addresses and routes of its own. Its device is given to whoever
// moves packets, an overlay node for instance; its Dial and Listen calls give
// package net's own types, so that an http.Client or any other program of package
// net works on the overlay unchanged.
//
// Bulk TCP leaves the device as superpackets, a single Packet with the payload of
// some forty-five segments, and may come in as such; see package packet.
//
// The protocols are gVisor's. This package adds the link endpoint below them and
// the net.Conn semantics above.
package netstack
