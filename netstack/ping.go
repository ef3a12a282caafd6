package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/ports"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
)

// pingPayload is what ping(8) sends.
const pingPayload = 56

// Ping sends one ICMP echo request and returns how long the answer took. Its
// errors are a *net.OpError with ctx's error, or with what a router on the way
// had to say, syscall.EHOSTUNREACH for instance. A lost request is not repeated:
// without a deadline in ctx, Ping then waits for as long as the stack lives.
func (s *Stack) Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	rtt, err := s.ping(ctx, addr.Unmap())
	if err != nil {
		return 0, opError("ping", "ip", nil, &net.IPAddr{IP: addr.AsSlice()}, err)
	}
	return rtt, nil
}

func (s *Stack) ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	if !addr.IsValid() || addr.IsUnspecified() || addr.Zone() != "" {
		return 0, &net.AddrError{Err: "not an address to ping", Addr: addr.String()}
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	p := &pinger{ip: s.ip, protocol: header.IPv4ProtocolNumber, transport: icmp.ProtocolNumber4, end: make(chan pong, 1)}
	if addr.Is6() {
		p.protocol, p.transport = header.IPv6ProtocolNumber, icmp.ProtocolNumber6
	}
	for i := 0; i < pingPayload; i += 8 {
		binary.BigEndian.PutUint64(p.payload[i:], rand.Uint64())
	}
	if err := s.startPing(p, addr); err != nil {
		return 0, err
	}
	defer p.stop()
	select {
	case pong := <-p.end:
		return pong.at.Sub(p.sent), pong.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// startPing sends p's request.
func (s *Stack) startPing(p *pinger, addr netip.Addr) error {
	if !s.enter() {
		return errStackClosed
	}
	defer s.leave()
	route, err := s.ip.FindRoute(0, tcpip.Address{}, toAddress(addr), p.protocol, false)
	if err != nil {
		return sysError("connect", err)
	}
	defer route.Release()
	if err := p.register(route); err != nil {
		return sysError("bind", err)
	}
	if err := p.send(route); err != nil {
		p.stop()
		return sysError("write", err)
	}
	return nil
}

// A pinger waits for the answer to one echo request. It is an endpoint of its own
// because gVisor's ICMP endpoints take no errors.
type pinger struct {
	ip        *stack.Stack
	protocol  tcpip.NetworkProtocolNumber
	transport tcpip.TransportProtocolNumber
	reply     stack.TransportEndpointID // of the answer
	failure   stack.TransportEndpointID // of an error that quotes the request
	payload   [pingPayload]byte

	sent time.Time
	end  chan pong // what came first
}

// A pong is how a ping ended.
type pong struct {
	at  time.Time
	err error
}

func (p *pinger) protocols() []tcpip.NetworkProtocolNumber {
	return []tcpip.NetworkProtocolNumber{p.protocol}
}

// register has what comes back sent to p, under an identifier nobody else uses.
func (p *pinger) register(route *stack.Route) tcpip.Error {
	p.reply = stack.TransportEndpointID{LocalAddress: route.LocalAddress(), RemoteAddress: route.RemoteAddress()}
	p.failure = p.reply
	_, err := p.ip.PickEphemeralPort(p.ip.SecureRNG(), func(ident uint16) (bool, tcpip.Error) {
		p.reply.LocalPort = ident
		p.failure.RemotePort = ident // gVisor takes the identifier for the destination port
		err := p.ip.RegisterTransportEndpoint(p.protocols(), p.transport, p.reply, p, ports.Flags{}, 0)
		if _, used := err.(*tcpip.ErrPortInUse); used {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	if err := p.ip.RegisterTransportEndpoint(p.protocols(), p.transport, p.failure, p, ports.Flags{}, 0); err != nil {
		p.ip.UnregisterTransportEndpoint(p.protocols(), p.transport, p.reply, p, ports.Flags{}, 0)
		return err
	}
	return nil
}

func (p *pinger) stop() {
	p.ip.UnregisterTransportEndpoint(p.protocols(), p.transport, p.reply, p, ports.Flags{}, 0)
	p.ip.UnregisterTransportEndpoint(p.protocols(), p.transport, p.failure, p, ports.Flags{}, 0)
}

func (p *pinger) send(route *stack.Route) tcpip.Error {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.ICMPv4MinimumSize + int(route.MaxHeaderLength()),
		Payload:            buffer.MakeWithView(buffer.NewViewWithData(p.payload[:])),
	})
	defer pkt.DecRef()
	pkt.TransportProtocolNumber = p.transport
	// Both versions' echo messages have the same eight bytes of header.
	h := pkt.TransportHeader().Push(header.ICMPv4MinimumSize)
	if p.protocol == header.IPv4ProtocolNumber {
		h := header.ICMPv4(h)
		h.SetType(header.ICMPv4Echo)
		h.SetIdent(p.reply.LocalPort)
		h.SetChecksum(^checksum.Checksum(h, pkt.Data().Checksum()))
	} else {
		h := header.ICMPv6(h)
		h.SetType(header.ICMPv6EchoRequest)
		h.SetIdent(p.reply.LocalPort)
		h.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
			Header:      h,
			Src:         route.LocalAddress(),
			Dst:         route.RemoteAddress(),
			PayloadCsum: pkt.Data().Checksum(),
			PayloadLen:  pingPayload,
		}))
	}
	p.sent = time.Now()
	return route.WritePacket(stack.NetworkHeaderParams{Protocol: p.transport, TTL: route.DefaultTTL()}, pkt)
}

// HandlePacket implements stack.TransportEndpoint.
func (p *pinger) HandlePacket(_ stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	h := pkt.TransportHeader().Slice()
	if len(h) == 0 {
		return
	}
	isReply := header.ICMPv4(h).Type() == header.ICMPv4EchoReply
	if p.protocol == header.IPv6ProtocolNumber {
		isReply = header.ICMPv6(h).Type() == header.ICMPv6EchoReply
	}
	if isReply && bytes.Equal(pkt.Data().AsRange().ToSlice(), p.payload[:]) {
		p.finish(nil)
	}
}

// HandleError implements stack.TransportEndpoint.
func (p *pinger) HandleError(what stack.TransportError, _ *stack.PacketBuffer) {
	var errno syscall.Errno
	switch what.Kind() {
	case stack.DestinationHostUnreachableTransportError, stack.DestinationHostDownTransportError,
		stack.SourceHostIsolatedTransportError, stack.SourceRouteFailedTransportError:
		errno = syscall.EHOSTUNREACH
	case stack.DestinationNetworkUnreachableTransportError:
		errno = syscall.ENETUNREACH
	case stack.DestinationPortUnreachableTransportError, stack.DestinationProtoUnreachableTransportError:
		errno = syscall.ECONNREFUSED
	case stack.PacketTooBigTransportError:
		errno = syscall.EMSGSIZE
	default:
		return
	}
	p.finish(os.NewSyscallError("read", errno))
}

// Abort implements stack.TransportEndpoint.
func (p *pinger) Abort() { p.finish(errStackClosed) }

// Wait implements stack.TransportEndpoint.
func (p *pinger) Wait() {}

func (p *pinger) finish(err error) {
	select {
	case p.end <- pong{time.Now(), err}:
	default:
	}
}
