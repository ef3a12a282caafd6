// Package packet is the leaf everything else stands on: one IP packet or
// superpacket, a batch of them, the stages they pass and the devices they come
// from and go to.
//
// A superpacket is one IP and transport header followed by the payload of many
// segments of one flow. It travels as a single Packet from the device that made
// it to the moment it is sealed, and from the moment its segments were opened to
// the device that takes it, so that routing, filtering and translation happen
// once for some forty-five segments. Cutter takes one apart and Merger builds
// one; both work in place. A superpacket of UDP is many datagrams: a stage that
// answers them takes it apart first.
//
// The bytes are the only truth about a packet. Accessors read them, SetSrc and
// SetDst change them and adjust the checksums. A packet can become its own answer,
// which Bounce sends back to where the question came from: Reply for one whose
// payload the caller writes, EchoReply, TCPReset and the ICMP errors Unreachable,
// TooBig and HopLimit for those that are complete at once. What must never be
// answered is dropped instead, with the reason NoReply.
//
// Nothing here allocates per packet, takes a lock or reads a clock.
package packet
