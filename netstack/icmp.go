package netstack

import (
	"github.com/overlayd/overlayd/packet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// minPathMTU is the smallest path MTU that an IPv4 message is believed: Linux's
// ip_rt_min_pmtu (RFC 1191 section 3 would go down to 68).
const minPathMTU = 552

// lowersTooFar reports whether p says that a packet was too big for an MTU that
// no path of today has. gVisor believes any, and a connection would then send in
// segments of a single byte. RFC 8201 section 4 has such messages discarded.
func lowersTooFar(p *packet.Packet) bool {
	switch p.Protocol() {
	case packet.ProtocolICMP:
		h := header.ICMPv4(p.Transport())
		return len(h) >= header.ICMPv4MinimumSize && h.Type() == header.ICMPv4DstUnreachable &&
			h.Code() == header.ICMPv4FragmentationNeeded && h.MTU() < minPathMTU
	case packet.ProtocolICMPv6:
		h := header.ICMPv6(p.Transport())
		return len(h) >= header.ICMPv6MinimumSize && h.Type() == header.ICMPv6PacketTooBig && h.MTU() < minMTU6
	}
	return false
}
