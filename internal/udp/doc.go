// Package udp is the sockets a WireGuard engine talks through: one per address
// family and lane, all on the same port, that take and give runs of datagrams
// with as few system calls as the host allows.
//
// A run is the datagrams to or from one endpoint, laid end to end, all of one
// length but the last, which may be shorter. On Linux a run is one message of
// sendmmsg with UDP_SEGMENT (kernel 4.18), and arrives as one message of recvmmsg
// with UDP_GRO (kernel 5.12); where the kernel or the device refuses, its
// datagrams go one by one, still many to a system call. Elsewhere they go one by
// one through the net package, or through registered I/O on Windows.
//
// Every datagram received carries the local address it came to, so that the
// answer leaves from there (a sticky source), and the ECN bits of its outer header.
//
// Datagrams that cannot be WireGuard's never reach the engine: a WireGuard message
// begins with its type, 1 to 4, and three zero bytes, which no STUN message in
// use (its second byte is not zero) and no TURN channel data (it begins 0x40 to
// 0x4F, RFC 8656 section 12) does. They go to Config.Hook, so that NAT traversal
// shares the port.
//
// Sending and receiving allocate nothing, registered I/O excepted.
package udp
