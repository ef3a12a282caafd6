package dnsd

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// ErrFull is the error of a change that would take a zone past its MaxRecords.
var ErrFull = errors.New("dnsd: the zone is full")

// maxNamesOfAddress is how many PTR records one address gets: a query for it
// must stay answerable when thousands of names share it.
const maxNamesOfAddress = 32

// A Tx is a transaction on a zone, valid while Update runs.
type Tx struct {
	zone    *Zone
	edit    *edit
	tree    *tree
	records int
	serial  uint32
}

// Update runs change and makes everything it did visible at once, or nothing of
// it if change returns an error, which Update returns. Updates run one at a time;
// change must not call the zone's other methods that change it.
func (z *Zone) Update(change func(tx *Tx) error) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	now := z.now.Load()
	tx := &Tx{zone: z, edit: new(edit), tree: now.tree, records: now.records, serial: now.serial}
	if err := change(tx); err != nil {
		return err
	}
	if tx.tree == now.tree {
		return nil
	}
	tx.serial++
	return tx.commit()
}

// Add adds a record, as Tx.Add does.
func (z *Zone) Add(r Record) error {
	return z.Update(func(tx *Tx) error { return tx.Add(r) })
}

// Set replaces records, as Tx.Set does.
func (z *Zone) Set(records ...Record) error {
	return z.Update(func(tx *Tx) error { return tx.Set(records...) })
}

// SetAddresses makes addrs the only addresses of a name, IPv4 and IPv6. With no
// address the name loses those it had.
func (z *Zone) SetAddresses(name string, addrs ...netip.Addr) error {
	return z.Update(func(tx *Tx) error { return tx.SetAddresses(name, addrs...) })
}

// Delete removes one record, as Tx.Delete does.
func (z *Zone) Delete(r Record) error {
	return z.Update(func(tx *Tx) error { return tx.Delete(r) })
}

// Remove removes every record of a name, as Tx.Remove does.
func (z *Zone) Remove(name string) error {
	return z.Update(func(tx *Tx) error { return tx.Remove(name) })
}

// Add adds a record. One with the same name and data is only given the new TTL.
// A record with an address also gives the address a PTR record, unless its name
// is a wildcard.
func (tx *Tx) Add(r Record) error {
	name, ttl, rdata, err := tx.check(r)
	if err != nil {
		return err
	}
	recordType := r.Data.recordType()
	rdatas := tx.rdatas(name, recordType)
	if !slices.Contains(rdatas, rdata) {
		rdatas = append(rdatas, rdata)
	}
	return tx.put(name, recordType, ttl, rdatas)
}

// Set adds records and removes all others that have the name and type of one of
// them.
func (tx *Tx) Set(records ...Record) error {
	type key struct {
		name       string
		recordType uint16
	}
	wanted := make(map[key]set)
	for _, r := range records {
		name, ttl, rdata, err := tx.check(r)
		if err != nil {
			return err
		}
		k := key{name, r.Data.recordType()}
		rdatas := slices.Collect(wanted[k].data)
		if !slices.Contains(rdatas, rdata) {
			rdatas = append(rdatas, rdata)
		}
		if wanted[k], err = makeSet(k.recordType, ttl, rdatas); err != nil {
			return err
		}
	}
	for k, s := range wanted {
		if err := tx.put(k.name, k.recordType, s.ttl, slices.Collect(s.data)); err != nil {
			return err
		}
	}
	return nil
}

// SetAddresses makes addrs the only addresses of a name, IPv4 and IPv6. With no
// address the name loses those it had.
func (tx *Tx) SetAddresses(name string, addrs ...netip.Addr) error {
	wire, err := tx.name(name)
	if err != nil {
		return err
	}
	rdatas := make(map[uint16][]string)
	for _, a := range addrs {
		rdata, err := Address(a).pack(nil, "")
		if err != nil {
			return err
		}
		recordType := Address(a).recordType()
		if !slices.Contains(rdatas[recordType], string(rdata)) {
			rdatas[recordType] = append(rdatas[recordType], string(rdata))
		}
	}
	for _, recordType := range []uint16{dns.TypeA, dns.TypeAAAA} {
		if err := tx.put(wire, recordType, tx.zone.ttl, rdatas[recordType]); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes the record with this name and data, whatever its TTL. It is no
// error when there is none.
func (tx *Tx) Delete(r Record) error {
	name, _, rdata, err := tx.check(r)
	if err != nil {
		return err
	}
	recordType := r.Data.recordType()
	rdatas := tx.rdatas(name, recordType)
	i := slices.Index(rdatas, rdata)
	if i < 0 {
		return nil
	}
	return tx.put(name, recordType, tx.ttl(name, recordType), slices.Delete(rdatas, i, i+1))
}

// Remove removes every record of a name, and none of the names below it. It is
// no error when there is none.
func (tx *Tx) Remove(name string) error {
	wire, err := tx.name(name)
	if err != nil {
		return err
	}
	o := tx.get(wire)
	if o == nil {
		return nil
	}
	for _, s := range o.sets {
		if err := tx.put(wire, s.recordType, 0, nil); err != nil {
			return err
		}
	}
	return nil
}

// name is a record's name in canonical form, checked to lie in the zone.
func (tx *Tx) name(text string) (string, error) {
	wire, err := packName(text, tx.zone.origin)
	if err != nil {
		return "", err
	}
	wire = canonical(wire)
	if tx.zone.apexOf(wire) == "" {
		return "", &NameError{text, "is outside the zone " + tx.zone.Origin()}
	}
	return wire, nil
}

func (tx *Tx) check(r Record) (name string, ttl uint32, rdata string, err error) {
	if r.Data == nil {
		return "", 0, "", fmt.Errorf("dnsd: %q: %w: it has no data", r.Name, ErrRecord)
	}
	if name, err = tx.name(r.Name); err != nil {
		return "", 0, "", err
	}
	if ttl, err = seconds(r.TTL, tx.zone.ttl); err != nil {
		return "", 0, "", err
	}
	b, err := r.Data.pack(nil, tx.zone.origin)
	if err != nil {
		return "", 0, "", err
	}
	return name, ttl, string(b), nil
}

// apexOf is the apex of the zone a name lies in, or "".
func (z *Zone) apexOf(name string) string {
	for len(name) > 1 {
		if z.apexes[name] {
			return name
		}
		name = parent(name)
	}
	return ""
}

func (tx *Tx) get(name string) *owner {
	return tx.tree.get(hashName([]byte(name)), []byte(name))
}

func (tx *Tx) rdatas(name string, recordType uint16) []string {
	if o := tx.get(name); o != nil {
		if i := o.index(recordType); i >= 0 {
			return slices.Collect(o.sets[i].data)
		}
	}
	return nil
}

func (tx *Tx) ttl(name string, recordType uint16) uint32 {
	if o := tx.get(name); o != nil {
		if i := o.index(recordType); i >= 0 {
			return o.sets[i].ttl
		}
	}
	return tx.zone.ttl
}

func (o *owner) index(recordType uint16) int {
	return slices.IndexFunc(o.sets, func(s set) bool { return s.recordType == recordType })
}

// put makes rdatas the records of a name and type, and keeps the PTR records of
// addresses in step.
func (tx *Tx) put(name string, recordType uint16, ttl uint32, rdatas []string) error {
	before := tx.rdatas(name, recordType)
	if len(before) == 0 && len(rdatas) == 0 {
		return nil
	}
	if err := tx.replace(name, recordType, ttl, rdatas); err != nil {
		return err
	}
	if recordType != dns.TypePTR || within(name, tx.zone.origin) {
		tx.records += len(rdatas) - len(before)
	}
	if recordType != dns.TypeA && recordType != dns.TypeAAAA || isWildcard(name) {
		return nil
	}
	for _, rdata := range before {
		if !slices.Contains(rdatas, rdata) {
			if err := tx.unname(rdata, name); err != nil {
				return err
			}
		}
	}
	for _, rdata := range rdatas {
		if err := tx.nameAddress(rdata, name, ttl); err != nil {
			return err
		}
	}
	return nil
}

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
	if tx.get(reverse).zone == "" {
		tx.own(reverse).zone = reverse
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

// replace makes rdatas the records of a name and type.
func (tx *Tx) replace(name string, recordType uint16, ttl uint32, rdatas []string) error {
	if len(rdatas) == 0 {
		if o := tx.get(name); o != nil && o.index(recordType) >= 0 {
			o = tx.own(name)
			i := o.index(recordType)
			o.sets = remove(o.sets, i)
			tx.prune(o)
		}
		return nil
	}
	s, err := makeSet(recordType, ttl, rdatas)
	if err != nil {
		return err
	}
	if err := tx.alone(name, recordType, len(rdatas)); err != nil {
		return err
	}
	o := tx.own(name)
	if i := o.index(recordType); i >= 0 {
		o.sets = slices.Clone(o.sets)
		o.sets[i] = s
	} else {
		o.sets = insert(o.sets, len(o.sets), s)
	}
	return nil
}

// alone checks that an alias is its owner's only record (RFC 1034 section
// 3.6.2), which at an apex, where SOA and NS stand, it cannot be.
func (tx *Tx) alone(name string, recordType uint16, count int) error {
	o := tx.get(name)
	var others, alias bool
	if o != nil {
		alias = o.index(dns.TypeCNAME) >= 0
		others = o.apex() && tx.zone.apexes[name] || len(o.sets) > 1 || len(o.sets) == 1 && !alias
	}
	switch {
	case recordType == dns.TypeCNAME && (others || count > 1):
		return fmt.Errorf("dnsd: %s: %w: an alias stands alone, and the name has other records",
			nameText(name), ErrRecord)
	case recordType != dns.TypeCNAME && alias:
		return fmt.Errorf("dnsd: %s: %w: the name is an alias and has no other records",
			nameText(name), ErrRecord)
	}
	return nil
}

// own returns the owner of a name for this transaction to write into, and makes
// it, and those above it, if it is not there.
func (tx *Tx) own(name string) *owner {
	o := new(owner)
	if was := tx.get(name); was != nil {
		*o = *was
	} else {
		*o = owner{name: name, hash: hashName([]byte(name)), zone: tx.zone.apexOf(name)}
		if above := parent(name); above != "\x00" {
			p := tx.own(above)
			p.children++
			p.wild = p.wild || isWildcard(name)
		}
	}
	tx.tree = tx.tree.put(tx.edit, o, 0)
	return o
}

// prune removes an owner that nothing needs any more, and then those above it.
func (tx *Tx) prune(o *owner) {
	for len(o.sets) == 0 && o.children == 0 && !tx.zone.apexes[o.name] {
		tx.tree = tx.tree.cut(tx.edit, o, 0)
		above := parent(o.name)
		if above == "\x00" {
			return
		}
		wild := isWildcard(o.name)
		o = tx.own(above)
		o.children--
		o.wild = o.wild && !wild
	}
}

// commit publishes the transaction.
func (tx *Tx) commit() error {
	if tx.records > tx.zone.maxRecords {
		return fmt.Errorf("%w: %d records fit", ErrFull, tx.zone.maxRecords)
	}
	soa, err := tx.zone.soaSet(tx.serial)
	if err != nil {
		return err
	}
	tx.zone.now.Store(&snapshot{
		tree: tx.tree, records: tx.records, serial: tx.serial,
		soa: soa, ns: tx.zone.ns, negativeTTL: tx.zone.negativeTTL,
	})
	tx.edit = new(edit) // what is published is never written again
	return nil
}
