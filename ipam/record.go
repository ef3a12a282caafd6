package ipam

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// In the file an address is a key of 4 or 16 bytes and a prefix one of 5 or 17,
// its length last, so that a bucket is in the order of addresses. Numbers are
// big endian, strings have their length in front as a uvarint.

var errRecord = errors.New("malformed record")

func addrKey(a netip.Addr) []byte { return a.AsSlice() }

func prefixKey(p netip.Prefix) []byte { return append(p.Addr().AsSlice(), byte(p.Bits())) }

// parsePrefix is the inverse of prefixKey.
func parsePrefix(key []byte) (netip.Prefix, error) {
	if len(key) == 0 {
		return netip.Prefix{}, errRecord
	}
	a, ok := netip.AddrFromSlice(key[:len(key)-1])
	p := netip.PrefixFrom(a, int(key[len(key)-1]))
	if !ok || checkPrefix(p) != nil {
		return netip.Prefix{}, errRecord
	}
	return p, nil
}

// appendRecord is the value of an address: when it was given and when released,
// and the owner. Which pool it is from follows from the claims.
func appendRecord(b []byte, v version) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(v.record.since))
	b = binary.BigEndian.AppendUint64(b, uint64(v.released))
	return appendOwner(b, v.record.owner)
}

func parseRecord(key, value []byte) (*record, error) {
	a, ok := netip.AddrFromSlice(key)
	if !ok || a.Is4In6() {
		return nil, errRecord
	}
	d := decoder{b: value}
	r := &record{addr: a, since: d.int64(), state: state{released: d.int64()}, owner: d.owner()}
	if err := d.end(); err != nil {
		return nil, err
	}
	return r, r.owner.check()
}

func appendClaim(b []byte, c *claim) []byte {
	b = append(b, byte(c.class))
	b = binary.BigEndian.AppendUint64(b, uint64(c.since))
	if c.class == classRoot {
		return b
	}
	b = appendOwner(b, c.owner)
	return appendString(b, c.node)
}

func parseClaim(key, value []byte) (*claim, error) {
	p, err := parsePrefix(key)
	if err != nil {
		return nil, err
	}
	d := decoder{b: value}
	c := &claim{prefix: p, class: class(d.byte()), since: d.int64()}
	switch c.class {
	case classRoot:
		return c, d.end()
	case classSubnet, classReserved:
	default:
		return nil, errRecord
	}
	c.owner = d.owner()
	c.node = d.string()
	if err := d.end(); err != nil {
		return nil, err
	}
	if c.node != "" && c.owner.Kind != KindService {
		return nil, errRecord
	}
	return c, errors.Join(c.owner.check(), checkNode(c.node))
}

func appendOwner(b []byte, o Owner) []byte {
	b = appendString(b, o.Kind)
	b = appendString(b, o.ID)
	b = appendString(b, o.Boot)
	b = binary.AppendUvarint(b, o.NetNS)
	b = binary.AppendUvarint(b, uint64(len(o.Labels)))
	if len(o.Labels) == 0 {
		return b
	}
	names := make([]string, 0, len(o.Labels))
	for name := range o.Labels {
		names = append(names, name)
	}
	slices.Sort(names) // equal owners are equal bytes
	for _, name := range names {
		b = appendString(b, name)
		b = appendString(b, o.Labels[name])
	}
	return b
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// A decoder reads a value. After what is malformed it reads zeros.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.b, d.bad = nil, true
		return nil
	}
	taken := d.b[:n]
	d.b = d.b[n:]
	return taken
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) int64() int64 {
	if b := d.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	n, size := binary.Uvarint(d.b)
	if size <= 0 {
		d.b, d.bad = nil, true
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) string() string { return string(d.take(d.uvarint())) }

func (d *decoder) owner() Owner {
	o := Owner{Kind: d.string(), ID: d.string(), Boot: d.string(), NetNS: d.uvarint()}
	n := d.uvarint()
	if n > maxLabels {
		d.bad = true
	}
	if n == 0 || d.bad {
		return o
	}
	o.Labels = make(map[string]string, n)
	for range n {
		name := d.string()
		o.Labels[name] = d.string()
	}
	if uint64(len(o.Labels)) != n {
		d.bad = true
	}
	return o
}

// end reports whether the value was read without fault and to its end.
func (d *decoder) end() error {
	if d.bad || len(d.b) != 0 {
		return errRecord
	}
	return nil
}

// restFrom places a released record on the clock of an authority that has just
// started: now is the zero of it. A clock that was set back makes the rest begin
// again, one that was set forward ends it at most at once.
func (r *record) restFrom(now time.Time, rest time.Duration) {
	age := now.Sub(time.Unix(0, r.released))
	if r.at = -max(age, 0); -r.at >= rest {
		r.at = longAgo
	}
}
