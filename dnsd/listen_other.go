//go:build !linux

package dnsd

import "net"

// listenPackets opens one UDP socket: several on a port do not share its flows
// here.
func listenPackets(addr string) ([]net.PacketConn, error) {
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, err
	}
	return []net.PacketConn{conn}, nil
}
