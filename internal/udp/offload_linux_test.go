package udp

import "golang.org/x/sys/unix"

func disableOffload(t transport) {
	b := t.(*batch)
	b.gso.Store(false)
	b.caps.GRO = false
	b.setInt("UDP_GRO", unix.IPPROTO_UDP, unix.UDP_GRO, 0)
}
