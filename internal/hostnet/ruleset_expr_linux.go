package hostnet

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// expressions is a part of a rule: what it matches, or what it does.
type expressions []expr.Any

// not returns the opposite of a match that ends in a comparison or a lookup.
func (e expressions) not() expressions {
	switch last := e[len(e)-1].(type) {
	case *expr.Cmp:
		last.Op = expr.CmpOpNeq
	case *expr.Lookup:
		last.Invert = true
	}
	return e
}

func accept() expressions { return expressions{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() expressions   { return expressions{&expr.Verdict{Kind: expr.VerdictDrop}} }

func jump(c *nftables.Chain) expressions {
	return expressions{&expr.Verdict{Kind: expr.VerdictJump, Chain: c.Name}}
}

func masquerade() expressions { return expressions{&expr.Masq{}} }

// meta matches a property of the packet that is not in it.
func meta(key expr.MetaKey, is []byte) expressions {
	return expressions{&expr.Meta{Key: key, Register: unix.NFT_REG_1}, equal(is)}
}

func equal(is []byte) *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: is}
}

// is matches the packets of a family.
func (f *family) is() expressions { return meta(expr.MetaKeyNFPROTO, []byte{f.nfproto}) }

func isLoopback(side expr.MetaKey) expressions {
	return meta(side, binary.NativeEndian.AppendUint32(nil, loopback))
}

func inGroup(side expr.MetaKey, group uint32) expressions {
	return meta(side, binary.NativeEndian.AppendUint32(nil, group))
}

// inSet matches packets that came or leave by a link of a set.
func (r *ruleset) inSet(side expr.MetaKey, set string) expressions {
	return expressions{&expr.Meta{Key: side, Register: unix.NFT_REG_1}, r.lookup(set)}
}

// addrIn matches an address that is in a set.
func (r *ruleset) addrIn(f *family, at uint32, set string) expressions {
	return expressions{f.load(at, unix.NFT_REG_1), r.lookup(set)}
}

func (r *ruleset) lookup(set string) *expr.Lookup {
	s := r.sets[set]
	return &expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: s.Name, SetID: s.ID}
}

// load takes an address from the packet.
func (f *family) load(at, register uint32) *expr.Payload {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: f.addr.Bytes}
}

// within matches an address that is in a prefix.
func (f *family) within(at uint32, p netip.Prefix) expressions {
	e := expressions{f.load(at, unix.NFT_REG_1)}
	if !p.IsSingleIP() {
		e = append(e, and(mask(p)))
	}
	return append(e, equal(p.Masked().Addr().AsSlice()))
}

// mask returns the bits of an address that a prefix gives.
func mask(p netip.Prefix) []byte {
	all := make([]byte, p.Addr().BitLen()/8)
	for bit := range p.Bits() {
		all[bit/8] |= 0x80 >> (bit % 8)
	}
	return all
}

// and keeps of what was loaded the bits of a mask.
func and(mask []byte) *expr.Bitwise {
	return &expr.Bitwise{
		SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1,
		Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask)),
	}
}

// isICMPv6 matches frames with a message of that, and loads its type.
func isICMPv6() expressions {
	return slices.Concat(
		meta(expr.MetaKeyPROTOCOL, binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)),
		meta(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_ICMPV6}),
		expressions{&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseTransportHeader, Len: 1}},
	)
}

// isPublished matches what came for a published port, ours or others' (IPS_DST_NAT of
// linux/netfilter/nf_conntrack_common.h).
func isPublished() expressions {
	e := expressions{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: unix.NFT_REG_1},
		and(binary.NativeEndian.AppendUint32(nil, 1<<5)),
		equal(make([]byte, 4)),
	}
	return e.not()
}

// isNotLocal matches what is for an address that is none of the host's.
func isNotLocal() expressions {
	return expressions{
		&expr.Fib{Register: unix.NFT_REG_1, FlagDADDR: true, ResultADDRTYPE: true},
		equal(binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)),
	}.not()
}

// dnat gives a packet the destination a map has for its port, and for its address if
// on. What is not in the map goes on to the next rule.
func (r *ruleset) dnat(f *family, ports string, on bool) expressions {
	var e expressions
	register := uint32(unix.NFT_REG32_00)
	if on {
		e = append(e, f.load(f.dest, unix.NFT_REG_1))
		register = f.after
	}
	lookup := r.lookup(ports)
	lookup.DestRegister, lookup.IsDestRegSet = unix.NFT_REG_1, true
	return append(e,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Payload{DestRegister: register + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		lookup,
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.nfproto), RegAddrMin: unix.NFT_REG_1, RegProtoMin: f.after, Specified: true},
	)
}

// clamp has the sides of a TCP connection send no larger segments (RFC 9293 section
// 3.7.1). The kernel only ever makes the option smaller.
func clamp(size uint16) expressions {
	const (
		flags, syn, rst = 13, 2, 4 // offset, and bits
		option, at      = 2, 2     // kind, and the offset of its value
	)
	e := meta(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_TCP})
	return append(e,
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
		and([]byte{syn | rst}),
		equal([]byte{syn}),
		&expr.Immediate{Register: unix.NFT_REG_1, Data: binary.BigEndian.AppendUint16(nil, size)},
		&expr.Exthdr{SourceRegister: unix.NFT_REG_1, Type: option, Offset: at, Len: 2, Op: expr.ExthdrOpTcpopt},
	)
}
