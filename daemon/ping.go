package daemon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// pingTime is how long an answer is waited for.
const pingTime = 5 * time.Second

// ping sends one ICMP echo request from the node.
func (d *Daemon) ping(ctx context.Context, r wire.Ping) (wire.Pong, error) {
	ip := r.IP.Unmap()
	if !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" {
		return wire.Pong{}, invalid("ip", "%v is no address of one host", ip)
	}
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	var rtt time.Duration
	var err error
	if stack := d.stack(); stack != nil {
		rtt, err = stack.Ping(ctx, ip)
	} else if d.host == nil {
		return wire.Pong{}, failed(wire.NotReady, "global overlay not set up: send setup_global_overlay first")
	} else {
		rtt, err = echo(ctx, ip)
	}
	if err != nil {
		return wire.Pong{}, d.noPong(ip, err)
	}
	pong := wire.Pong{IP: ip, RTT: uint64(rtt.Microseconds())}
	for _, v := range d.devices() {
		if key, _, ok := v.behind(ip); ok {
			pong.Pubkey = key.String()
			break
		}
	}
	return pong, nil
}

// noPong is why there was no answer, and what is known of the way there.
func (d *Daemon) noPong(ip netip.Addr, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return because(err, "ping %v: the daemon may not send ICMP: it wants CAP_NET_RAW, or its group in net.ipv4.ping_group_range", ip)
	case !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded):
		code := codeOf(err)
		if slices.ContainsFunc([]error{errUnreachable, syscall.ENETUNREACH, syscall.EHOSTUNREACH}, func(way error) bool { return errors.Is(err, way) }) {
			code = wire.NotReady
		}
		return &Error{Code: code, Msg: fmt.Sprintf("%v is not reached: %s", ip, d.wayTo(ip)), Err: err}
	}
	return failed(wire.Timeout, "%v did not answer: %s", ip, d.wayTo(ip))
}

// wayTo is what explain says of a packet from the node, and what to do when nobody
// answers it.
func (d *Daemon) wayTo(ip netip.Addr) string {
	src := netip.IPv6Loopback()
	if ip.Is4() {
		src = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if v := d.global.load(); v != nil {
		for _, p := range v.Addrs {
			if p.Addr().Is4() == ip.Is4() {
				src = p.Addr()
			}
		}
	}
	t := tracer{d: d, dst: ip, proto: wire.ICMP, src: d.locate(src)}
	t.trace()
	var way []string
	for _, hop := range t.Path[1:] { // the first is the node itself
		way = append(way, hop.Detail)
	}
	if t.Verdict == verdictDropped {
		return fmt.Sprintf("the packet is dropped (%s): %s", t.Reason, strings.Join(way, "; "))
	}
	return fmt.Sprintf("the packet is %s: %s: %s", t.Verdict, strings.Join(way, "; "), t.advice())
}

// advice is what to do when a packet that nothing on this host drops is not answered.
func (t *tracer) advice() string {
	switch {
	case t.Verdict == verdictDelivered:
		return fmt.Sprintf("see whether %v is up, and lets ICMP in", t.dst)
	case t.Verdict == verdictForwarded:
		return "see whether the network it was forwarded to leads there, and lets ICMP through"
	case t.peer.LastHandshake.IsZero():
		return fmt.Sprintf("see whether the peer runs there, UDP reaches it, and it has this node as a peer with the public key %v", t.peerOf.node().PublicKey())
	case !t.d.healthy(t.peerOf.scope, t.peer.PublicKey, t.peer.LastHandshake):
		return "see whether the peer still runs there, and UDP reaches it"
	}
	return fmt.Sprintf("as far as is known the peer is reached, so see there whether %v is up, and lets ICMP in", t.dst)
}

// errUnreachable is what a router, or the address's own network, says of it.
var errUnreachable = errors.New("ICMP destination unreachable")

// An echoFamily is what differs between ICMP and ICMPv6.
type echoFamily struct {
	datagram, raw, any string
	protocol           int // IANA
	request, reply     icmp.Type
	unreachable        icmp.Type
}

var (
	echo4 = echoFamily{"udp4", "ip4:icmp", "0.0.0.0", 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply, ipv4.ICMPTypeDestinationUnreachable}
	echo6 = echoFamily{"udp6", "ip6:ipv6-icmp", "::", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, ipv6.ICMPTypeDestinationUnreachable}
)

// echo sends an echo request from the host, and waits for the answer until ctx ends.
func echo(ctx context.Context, ip netip.Addr) (time.Duration, error) {
	f := echo6
	if ip.Is4() {
		f = echo4
	}
	conn, raw, err := f.listen()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	var dst net.Addr = &net.UDPAddr{IP: ip.AsSlice()}
	if raw {
		dst = &net.IPAddr{IP: ip.AsSlice()}
	}
	// A datagram socket has an id of the kernel's choice, and is given the answers
	// to it alone; a raw one is given everything. The payload tells ours.
	nonce := binary.BigEndian.AppendUint64(nil, rand.Uint64())
	id := rand.Uint32()
	m := icmp.Message{Type: f.request, Body: &icmp.Echo{ID: int(uint16(id)), Seq: int(id >> 16), Data: nonce}}
	request, err := m.Marshal(nil)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := conn.WriteTo(request, dst); err != nil {
		return 0, err
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		took := time.Since(began)
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return 0, err
		}
		answer, err := icmp.ParseMessage(f.protocol, buf[:n])
		if err != nil {
			continue
		}
		switch body := answer.Body.(type) {
		case *icmp.Echo:
			if answer.Type == f.reply && body.Seq == int(id>>16) && string(body.Data) == string(nonce) {
				return took, nil
			}
		case *icmp.DstUnreach:
			if answer.Type == f.unreachable && f.quotes(body.Data, ip, request) {
				return 0, fmt.Errorf("%w, code %d, from %v", errUnreachable, answer.Code, from)
			}
		}
	}
}

// listen opens a socket for echoes, with the least privilege that does: a datagram
// socket, or a raw one. (Linux: ICMP sockets are for the groups of
// net.ipv4.ping_group_range, raw ones for CAP_NET_RAW.)
func (f echoFamily) listen() (conn *icmp.PacketConn, raw bool, err error) {
	if conn, err = icmp.ListenPacket(f.datagram, f.any); err == nil {
		return conn, false, nil
	}
	conn, err = icmp.ListenPacket(f.raw, f.any)
	return conn, true, err
}

// quotes reports whether what an ICMP error quotes is an echo request to ip: its IP
// header and at least the eight bytes that follow (RFC 792, RFC 4443 section 3.1).
func (f echoFamily) quotes(quoted []byte, ip netip.Addr, request []byte) bool {
	header, at := 40, 24
	if ip.Is4() {
		if len(quoted) < 20 {
			return false
		}
		header, at = int(quoted[0]&0xf)*4, 16
	}
	addr := ip.AsSlice()
	if header < at+len(addr) || len(quoted) < header+8 || string(quoted[at:at+len(addr)]) != string(addr) {
		return false
	}
	// The kernel fills the checksum of ICMPv6 in, so type, code, id and sequence
	// number count.
	inner := quoted[header:]
	return inner[0] == request[0] && inner[1] == request[1] && string(inner[4:8]) == string(request[4:8])
}
