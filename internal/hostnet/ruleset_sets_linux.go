package hostnet

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"
)

// addSets makes the sets and maps the rules look things up in, each in about the same
// time however large it is.
func (r *ruleset) addSets() error {
	links := slices.Compact(slices.Sorted(slices.Values(slices.Concat(r.Bridges, r.Devices))))
	if err := r.addLinks(bridgeSet, r.Bridges); err != nil {
		return err
	}
	if err := r.addLinks(linkSet, links); err != nil {
		return err
	}
	for _, f := range families {
		if err := r.addPrefixes(f, f.inside, r.Inside); err != nil {
			return err
		}
		if err := r.addPrefixes(f, f.cluster, r.Cluster); err != nil {
			return err
		}
		port := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}
		if err := r.addPorts(f, f.ports, false, port); err != nil {
			return err
		}
		if err := r.addPorts(f, f.portsOn, true, append([]nftables.SetDatatype{f.addr}, port...)); err != nil {
			return err
		}
	}
	return nil
}

func (r *ruleset) addLinks(name string, links []string) error {
	// Names have the byte order of the host, which nft(8) has to know to show them.
	return r.addSet(&nftables.Set{Name: name, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}, linkElements(links))
}

func (r *ruleset) addPrefixes(f *family, name string, prefixes []netip.Prefix) error {
	return r.addSet(&nftables.Set{Name: name, KeyType: f.addr, Interval: true}, f.rangeElements(prefixes))
}

func (r *ruleset) addPorts(f *family, name string, on bool, key []nftables.SetDatatype) error {
	return r.addSet(&nftables.Set{
		Name:     name,
		IsMap:    true,
		KeyType:  nftables.MustConcatSetType(key...),
		DataType: nftables.MustConcatSetType(f.addr, nftables.TypeInetService),
	}, f.portElements(r.Ports, on))
}

// elementsAtOnce keeps a list of elements below the 64 KB of a netlink attribute.
const elementsAtOnce = 512

// addSet adds a set, with these elements and no others.
func (r *ruleset) addSet(s *nftables.Set, elements []nftables.SetElement) error {
	s.Table = r.table
	s.ID = uint32(len(r.sets) + 1) // of the transaction; the module's own count is not safe for several goroutines
	r.sets[s.Name] = s
	if err := r.conn.AddSet(s, nil); err != nil {
		return err
	}
	r.conn.FlushSet(s)
	for chunk := range slices.Chunk(elements, elementsAtOnce) {
		if err := r.conn.SetAddElements(s, chunk); err != nil {
			return err
		}
	}
	return nil
}

func linkElements(names []string) (e []nftables.SetElement) {
	for _, n := range names {
		e = append(e, nftables.SetElement{Key: append([]byte(n), make([]byte, unix.IFNAMSIZ-len(n))...)})
	}
	return e
}

// rangeElements returns what is in one of the prefixes of a family as ranges that
// neither overlap nor touch, which the kernel would refuse: where each begins, and
// the address after its last.
func (f *family) rangeElements(prefixes []netip.Prefix) (e []nftables.SetElement) {
	var mine []netip.Prefix
	for _, p := range prefixes {
		if p.Addr().Is4() == f.is4 {
			mine = append(mine, p.Masked())
		}
	}
	slices.SortFunc(mine, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	for i := 0; i < len(mine); {
		start, end := mine[i].Addr(), last(mine[i])
		for i++; i < len(mine) && (mine[i].Addr().Compare(end) <= 0 || mine[i].Addr() == end.Next()); i++ {
			if l := last(mine[i]); l.Compare(end) > 0 {
				end = l
			}
		}
		e = append(e, nftables.SetElement{Key: start.AsSlice()})
		if next := end.Next(); next.IsValid() { // else it has no end
			e = append(e, nftables.SetElement{Key: next.AsSlice(), IntervalEnd: true})
		}
	}
	return e
}

// last returns the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(a)*8; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(a)
	return addr
}

// portElements returns the published ports of a family, of certain addresses of the
// host or of all. In keys and values each part begins a register of four bytes.
func (f *family) portElements(ports []Forward, on bool) (e []nftables.SetElement) {
	for _, p := range ports {
		if p.To.Addr().Is4() != f.is4 || p.HostIP.IsValid() != on {
			continue
		}
		var key []byte
		if on {
			key = p.HostIP.AsSlice()
		}
		proto := byte(unix.IPPROTO_TCP)
		if p.Proto == "udp" {
			proto = unix.IPPROTO_UDP
		}
		key = append(key, proto, 0, 0, 0)
		e = append(e, nftables.SetElement{
			Key: appendPort(key, p.HostPort),
			Val: appendPort(p.To.Addr().AsSlice(), p.To.Port()),
		})
	}
	return e
}

func appendPort(b []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(b, port), 0, 0)
}
