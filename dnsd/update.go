package dnsd

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// ErrFull is the error of a change that would take a zone past its MaxRecords.
var ErrFull = errors.New("dnsd: the zone is full")

// A Tx is a transaction on a zone, valid while Update runs.
type Tx struct {
	zone    *Zone
	edit    *edit
	tree    *tree
	records int
	serial  uint32
	counts  []count // changes to owner.below, to be undone when it fails
}

type count struct {
	below *uint32
	delta uint32 // modulo 2^32
}

// Update runs change and makes everything it did visible at once, or nothing of
// it if change returns an error, which Update returns. Updates run one at a time;
// change must not call the zone's other methods that change it.
func (z *Zone) Update(change func(tx *Tx) error) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	now := z.now.Load()
	tx := &Tx{zone: z, edit: new(edit), tree: now.tree, records: now.records, serial: now.serial}
	defer tx.end()
	if err := change(tx); err != nil {
		return err
	}
	if tx.tree == now.tree {
		return nil
	}
	tx.serial++
	return tx.commit()
}

// end takes back what a transaction that was not committed did to counts, and
// cuts it off from the zone: what is published is never written again.
func (tx *Tx) end() {
	for _, c := range tx.counts {
		*c.below -= c.delta
	}
	tx.zone, tx.counts = nil, nil
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
	if indexData(rdatas, recordType, rdata) < 0 {
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
		if indexData(rdatas, k.recordType, rdata) < 0 {
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
	var v4, v6 []string
	for _, a := range addrs {
		rdata, err := Address(a).pack(nil, "")
		if err != nil {
			return err
		}
		family := &v4
		if len(rdata) == 16 {
			family = &v6
		}
		if !slices.Contains(*family, string(rdata)) {
			*family = append(*family, string(rdata))
		}
	}
	if err := tx.put(wire, dns.TypeA, tx.zone.ttl, v4); err != nil {
		return err
	}
	return tx.put(wire, dns.TypeAAAA, tx.zone.ttl, v6)
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
	i := indexData(rdatas, recordType, rdata)
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
	if tx.zone.of(wire) == noZone {
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

// of is the index of the apex a name belongs to, or noZone.
func (z *Zone) of(name string) uint32 {
	for len(name) > 1 {
		if i, ok := z.apexes[name]; ok {
			return i
		}
		name = parent(name)
	}
	return noZone
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
	// Side by side, so that whoever has found the name has the records in reach, and
	// the garbage collector one thing to look at instead of two.
	both := o.name + s.wire
	o.name, s.wire = both[:len(o.name)], both[len(o.name):]
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
		others = tx.zone.apexes[name] != noZone || len(o.sets) > 1 || len(o.sets) == 1 && !alias
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
		*o = owner{name: name, hash: hashName([]byte(name)), zone: tx.zone.of(name)}
		if above := parent(name); above != "\x00" {
			tx.child(above, isWildcard(name))
		}
	}
	tx.tree = tx.tree.put(tx.edit, o, 0)
	return o
}

// child counts a new name below the one of this name.
func (tx *Tx) child(name string, wildcard bool) {
	o := tx.get(name)
	if o == nil || o.below == nil || wildcard {
		o = tx.own(name)
		o.wild = o.wild || wildcard
		if o.below == nil {
			o.below = new(uint32)
		}
	}
	tx.count(o.below, 1)
}

func (tx *Tx) count(below *uint32, delta uint32) {
	*below += delta
	tx.counts = append(tx.counts, count{below, delta})
}

// prune removes an owner that nothing needs any more, and then those above it.
func (tx *Tx) prune(o *owner) {
	for len(o.sets) == 0 && (o.below == nil || *o.below == 0) && tx.zone.apexes[o.name] == noZone {
		tx.tree = tx.tree.cut(tx.edit, o, 0)
		above := parent(o.name)
		if above == "\x00" {
			return
		}
		wildcard := isWildcard(o.name)
		o = tx.get(above)
		tx.count(o.below, math.MaxUint32) // less one
		if wildcard {
			o = tx.own(above)
			o.wild = false
		}
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
		zone: tx.zone, tree: tx.tree, records: tx.records, serial: tx.serial, soa: soa,
	})
	tx.counts = nil
	return nil
}
