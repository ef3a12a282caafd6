package packet_test

import (
	"fmt"

	"github.com/overlayd/overlayd/packet"
)

// pingable answers echo requests on their way out.
type pingable struct{}

func (pingable) Outbound(b *packet.Batch) {
	for i := range b.Packets {
		p := &b.Packets[i]
		if t := p.Transport(); p.Protocol() == packet.ProtocolICMP && len(t) >= 8 && t[0] == 8 {
			p.EchoReply()
		}
	}
}

func (pingable) Inbound(*packet.Batch) {}

func ExampleStage() {
	b := packet.NewBatch(0)
	b.Append([]byte{
		0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0x66, 0xdd, 10, 0, 0, 1, 10, 0, 0, 2,
		8, 0, 0xf7, 0xfd, 0, 1, 0, 1,
	}, 0)
	packet.Chain{pingable{}}.Outbound(b)
	for _, p := range b.Bounced() {
		fmt.Println(p.SrcAddr(), "to", p.DstAddr(), p.ChecksumOK())
	}
	fmt.Println(len(b.Packets), "left")
	// Output:
	// 10.0.0.2 to 10.0.0.1 true
	// 0 left
}

// A datagram with a question becomes the one with the answer.
func ExamplePacket_Reply() {
	answer := func(p *packet.Packet, text string) {
		room := p.Reply(len(text))
		if room == nil {
			return // no room for it, or not to be answered
		}
		copy(room, text)
		p.FinishChecksum()
		p.Bounce()
	}
	data := make([]byte, 30, 1500+packet.Slack)
	copy(data, []byte{
		0x45, 0, 0, 30, 0, 1, 0, 0, 64, 17, 0x66, 0xcb, 10, 0, 0, 1, 10, 0, 0, 2,
		0x80, 0, 0, 53, 0, 10, 0, 0, 'h', 'i',
	})
	b := packet.NewBatch(0)
	answer(b.Append(data, 0), "hello")
	b.Sweep()
	p := b.Bounced()[0]
	fmt.Printf("%v to %v: %s %v\n", p.Src(), p.Dst(), p.Transport()[8:], p.ChecksumOK())
	// Output:
	// 10.0.0.2:53 to 10.0.0.1:32768: hello true
}
