package udp

import "golang.org/x/sys/unix"

// sendsLargest says that any datagram that fits IP may be sent.
const sendsLargest = true

func disableOffload(t transport) {
	b := t.(*batch)
	b.segments.Store(1)
	b.caps.GRO = false
	b.setInt("UDP_GRO", unix.IPPROTO_UDP, unix.UDP_GRO, 0)
}
