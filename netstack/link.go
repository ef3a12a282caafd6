package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A superpacket is sized so that, cut and sealed, it leaves in one sendmsg with
// UDP_SEGMENT: at most 64 segments (UDP_MAX_SEGMENTS before Linux 6.9) and at
// most 65,507 bytes (an IPv4 datagram's payload, RFC 768).
const (
	maxSegments  = 64
	maxDatagram  = 65507
	sealOverhead = 32 // WireGuard's header and tag, section 5.4.6 of its paper
	sealPadding  = 16 // what the plaintext is padded to

	// gVisor keeps room in every segment for as many options as there may ever be
	// (RFC 6691 section 2).
	tcpOptions = 40

	// What gVisor leaves for headers when it fills a packet of GSOMaxSize.
	gsoHeadroom = header.TCPTotalHeaderMaximumSize + 1
)

// link is the link endpoint under gVisor's protocols: outbound packets go to the
// queue, and inbound ones are handed to the network endpoints by the device.
type link struct {
	queue *queue
	mtu   uint32
}

var (
	_ stack.LinkEndpoint       = (*link)(nil)
	_ stack.GSOEndpoint        = (*link)(nil)
	_ stack.QueueingDiscipline = (*link)(nil)
)

// WritePacket takes one outbound packet. It is the queueing discipline, so that
// no list is made for a single packet.
func (l *link) WritePacket(pkt *stack.PacketBuffer) tcpip.Error {
	if !l.queue.push(pkt) {
		return &tcpip.ErrNoBufferSpace{}
	}
	return nil
}

// WritePackets is WritePacket for a list.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range pkts.AsSlice() {
		if err := l.WritePacket(pkt); err != nil {
			return i, err
		}
	}
	return pkts.Len(), nil
}

// SupportedGSO says that segmentation happens below: whoever reads the device
// cuts.
func (l *link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// GSOMaxSize is asked for at the beginning of every connection, without saying of
// which family. The figure is made for IPv6, whose segments carry 20 bytes less; an
// IPv4 superpacket then ends in a shorter segment.
func (l *link) GSOMaxSize() uint32 {
	mtu := int(l.mtu)
	sealed := (mtu+sealPadding-1)/sealPadding*sealPadding + sealOverhead
	segments := max(1, min(maxSegments, maxDatagram/sealed))
	payload := mtu - header.IPv6MinimumSize - header.TCPMinimumSize - tcpOptions
	return uint32(segments*payload + gsoHeadroom)
}

// MTU is the interface's.
func (l *link) MTU() uint32 { return l.mtu }

// SetMTU does nothing: the MTU is the device's for life.
func (l *link) SetMTU(uint32) {}

// Capabilities are none: gVisor completes the checksums of all but TCP's own
// segments, for which host segmentation implies that the device does.
func (l *link) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityNone }

// The rest is what a link without a link layer has to say.

func (l *link) MaxHeaderLength() uint16                 { return 0 }
func (l *link) LinkAddress() tcpip.LinkAddress          { return "" }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) Attach(stack.NetworkDispatcher)          {}
func (l *link) IsAttached() bool                        { return true }
func (l *link) Wait()                                   {}
func (l *link) Close()                                  {}
func (l *link) SetOnCloseAction(func())                 {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (l *link) AddHeader(*stack.PacketBuffer)           {}
func (l *link) ParseHeader(*stack.PacketBuffer) bool    { return true }
