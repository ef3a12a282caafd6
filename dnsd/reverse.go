package dnsd

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"

	"github.com/miekg/dns"
)

// maxNamesOfAddress is how many PTR records one address gets: a query for it
// must stay answerable when thousands of names share it.
const maxNamesOfAddress = 32

// nameAddress gives an address a PTR record.
func (tx *Tx) nameAddress(rdata, name string, ttl uint32) error {
	a, _ := netip.AddrFromSlice([]byte(rdata))
	reverse := reverseName(a)
	names := tx.rdatas(reverse, dns.TypePTR)
	if !slices.Contains(names, name) {
		if len(names) >= maxNamesOfAddress {
			return nil
		}
		names = append(names, name)
	}
	if err := tx.replace(reverse, dns.TypePTR, ttl, names); err != nil {
		return err
	}
	if tx.get(reverse).zone == noZone {
		tx.own(reverse).zone = ownZone
	}
	return nil
}

// unname takes it away.
func (tx *Tx) unname(rdata, name string) error {
	a, _ := netip.AddrFromSlice([]byte(rdata))
	reverse := reverseName(a)
	names := tx.rdatas(reverse, dns.TypePTR)
	i := slices.Index(names, name)
	if i < 0 {
		return nil
	}
	return tx.replace(reverse, dns.TypePTR, tx.ttl(reverse, dns.TypePTR), slices.Delete(names, i, i+1))
}

// reverseName is the canonical name under which an address's PTR record stands:
// octets under in-addr.arpa (RFC 1035 section 3.5), nibbles under ip6.arpa
// (RFC 3596 section 2.5).
func reverseName(a netip.Addr) string { return reversePrefix(a.Unmap(), a.Unmap().BitLen()) }

// reversePrefix names the first bits of an address, a whole number of labels.
func reversePrefix(a netip.Addr, bits int) string {
	var b []byte
	if a.Is4() {
		octets := a.As4()
		for i := bits/8 - 1; i >= 0; i-- {
			text := strconv.Itoa(int(octets[i]))
			b = append(b, byte(len(text)))
			b = append(b, text...)
		}
		return string(append(b, "\x07in-addr\x04arpa\x00"...))
	}
	octets := a.As16()
	nibbles := hex.EncodeToString(octets[:])
	for i := bits/4 - 1; i >= 0; i-- {
		b = append(b, 1, nibbles[i])
	}
	return string(append(b, "\x03ip6\x04arpa\x00"...))
}

// reverseZones names the reverse zones that make up a prefix. One that does not
// end between two labels is several: 10.0.0.0/12 is sixteen zones from
// 0.10.in-addr.arpa to 15.10.in-addr.arpa, at most 128 for IPv4 and 8 for IPv6.
func reverseZones(p netip.Prefix) []string {
	p = p.Masked()
	step := 4
	if p.Addr().Is4() {
		step = 8
	}
	whole := (p.Bits() + step - 1) / step * step
	octets := p.Addr().AsSlice()
	var names []string
	for i := range 1 << (whole - p.Bits()) {
		a := append([]byte(nil), octets...)
		if whole > 0 {
			last := (whole - 1) / 8
			a[last] |= byte(i << (8*(last+1) - whole))
		}
		addr, _ := netip.AddrFromSlice(a)
		names = append(names, reversePrefix(addr, whole))
	}
	return names
}
