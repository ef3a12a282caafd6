package packet

import "encoding/binary"

// setLengths makes the length fields of IP and UDP say what Data holds, and the
// IPv4 header checksum with them. Data is at most MaxSize long.
func (p *Packet) setLengths() {
	d := p.Data
	switch p.Version() {
	case 4:
		header := int(d[0]&0x0f) * 4
		if header < 20 || header > len(d) {
			return
		}
		binary.BigEndian.PutUint16(d[2:], uint16(len(d)))
		finishIPv4(d[:header])
	case 6:
		binary.BigEndian.PutUint16(d[4:], uint16(len(d)-40))
	}
	if t := p.Transport(); p.protocol == ProtocolUDP && len(t) >= 8 {
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
	}
}
