package dnsd

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// ZoneConfig is what a zone is made from. Origin is needed, the rest has
// defaults.
type ZoneConfig struct {
	// Origin is the zone's name, such as "overlay.internal".
	Origin string
	// TTL is that of records which do not state one. Default 30 s.
	TTL time.Duration
	// NegativeTTL is how long a resolver may remember that a name or type is not
	// there (RFC 2308 section 5). Default 5 s.
	NegativeTTL time.Duration
	// Nameservers are the names in the NS records, by the rule of Record.Name.
	// Default "ns".
	Nameservers []string
	// Mailbox of the person responsible, written as a name (RFC 1035 section
	// 3.3.13). Default "hostmaster".
	Mailbox string
	// Reverse are the prefixes whose reverse zones this zone is, so that an
	// address in them which has no name is known not to have one. Addresses
	// outside them have PTR records all the same, each a zone of its own.
	Reverse []netip.Prefix
	// MaxRecords is how many records fit, those of reverse zones not counted.
	// Default 4,194,304.
	MaxRecords int
}

// A Zone is the names below one origin and in its reverse zones. Every change
// is visible to queries at once and as a whole, and costs the same whatever the
// number of names. Safe for use by several goroutines; readers never wait.
type Zone struct {
	origin      string // canonical
	ttl         uint32
	negativeTTL uint32
	ns          set               // at every apex
	soaNames    string            // MNAME and RNAME of the SOA
	apexes      map[string]uint32 // of the zone and its configured reverse zones: index in apexNames
	apexNames   []string          // the first is no apex at all
	maxRecords  int

	mu  sync.Mutex // held by writers
	now atomic.Pointer[snapshot]
}

// A snapshot is a zone at one moment. It never changes.
type snapshot struct {
	zone    *Zone
	tree    *tree
	records int
	serial  uint32
	soa     set // at every apex, as the zone's NS records are
}

// An owner is a name and its records. One without records exists because a name
// below it does (an empty non-terminal, RFC 4592 section 2.2.2), or because it
// is the apex of a zone.
type owner struct {
	name string // canonical
	hash uint64
	sets []set
	// below counts the names directly below, and is nil when there never was one.
	// It is shared by the copies of the owner and belongs to the writer: if each
	// new name had to copy the owner above, changes would cost half as much again.
	below *uint32
	zone  uint32 // index of the zone's apex, noZone, or ownZone
	wild  bool   // one of the names below is the wildcard
}

const (
	noZone  = 0              // the name stands above every apex
	ownZone = math.MaxUint32 // the reverse name of an address outside the configured prefixes
)

// NewZone makes a zone that holds its SOA and NS records only. The error is a
// NameError or says which field is wrong.
func NewZone(cfg ZoneConfig) (*Zone, error) {
	origin, err := packName(dns.Fqdn(cfg.Origin), "\x00")
	if err != nil {
		return nil, err
	}
	if cfg.Origin == "" || origin == "\x00" {
		return nil, &NameError{cfg.Origin, "a zone needs an origin below the root"}
	}
	z := &Zone{origin: canonical(origin), apexes: make(map[string]uint32), apexNames: []string{""}, maxRecords: cfg.MaxRecords}
	if z.ttl, err = seconds(cfg.TTL, 30); err != nil {
		return nil, err
	}
	if z.negativeTTL, err = seconds(cfg.NegativeTTL, 5); err != nil {
		return nil, err
	}
	if z.maxRecords <= 0 {
		z.maxRecords = 1 << 22
	}
	if len(cfg.Nameservers) == 0 {
		cfg.Nameservers = []string{"ns"}
	}
	if cfg.Mailbox == "" {
		cfg.Mailbox = "hostmaster"
	}
	var nameservers []string
	for _, text := range cfg.Nameservers {
		wire, err := packName(text, origin)
		if err != nil {
			return nil, err
		}
		nameservers = append(nameservers, wire)
	}
	if z.ns, err = makeSet(dns.TypeNS, z.ttl, nameservers); err != nil {
		return nil, err
	}
	mailbox, err := packName(cfg.Mailbox, origin)
	if err != nil {
		return nil, err
	}
	z.soaNames = nameservers[0] + mailbox

	z.addApex(z.origin)
	for _, p := range cfg.Reverse {
		if !p.IsValid() || p.Addr().Is4In6() {
			return nil, fmt.Errorf("dnsd: reverse zone %v: not a usable prefix", p)
		}
		for _, name := range reverseZones(p) {
			z.addApex(name)
		}
	}
	tx := &Tx{zone: z, edit: new(edit), tree: new(tree), serial: uint32(time.Now().Unix())}
	for _, name := range z.apexNames[1:] {
		tx.own(name)
	}
	if err := tx.commit(); err != nil {
		return nil, err
	}
	return z, nil
}

func (z *Zone) addApex(name string) {
	if _, ok := z.apexes[name]; !ok {
		z.apexes[name] = uint32(len(z.apexNames))
		z.apexNames = append(z.apexNames, name)
	}
}

// seconds is a TTL in whole seconds, rounded up so that a short one is not none
// at all.
func seconds(d time.Duration, zero uint32) (uint32, error) {
	if d == 0 {
		return zero, nil
	}
	if d < 0 || d > math.MaxInt32*time.Second { // RFC 2181 section 8
		return 0, fmt.Errorf("dnsd: TTL %v: not between 0 and 2^31-1 seconds", d)
	}
	return uint32((d + time.Second - 1) / time.Second), nil
}

// Origin is the zone's name in lower case, with a final dot.
func (z *Zone) Origin() string { return nameText(z.origin) }

// Serial is the zone's serial number; each change raises it by one.
func (z *Zone) Serial() uint32 { return z.now.Load().serial }

// Len is how many records the zone holds, those of reverse zones not counted.
func (z *Zone) Len() int { return z.now.Load().records }

// Lookup returns the records of one name, as they are kept: no wildcard applies
// and no alias is followed.
func (z *Zone) Lookup(name string) ([]Record, error) {
	wire, err := packName(name, z.origin)
	if err != nil {
		return nil, err
	}
	wire = canonical(wire)
	o := z.now.Load().tree.get(hashName([]byte(wire)), []byte(wire))
	if o == nil {
		return nil, nil
	}
	var records []Record
	o.records(func(r Record) bool { records = append(records, r); return true })
	return records, nil
}

// All yields every record, PTR records of addresses included, in no order. It
// sees the zone as it was when the iteration began.
func (z *Zone) All() iter.Seq[Record] {
	return func(yield func(Record) bool) {
		z.now.Load().tree.each(func(o *owner) bool { return o.records(yield) })
	}
}

func (o *owner) records(yield func(Record) bool) bool {
	for i := range o.sets {
		s := &o.sets[i]
		for rdata := range s.data {
			d, ok := unpackData(s.recordType, rdata)
			if ok && !yield(Record{nameText(o.name), time.Duration(s.ttl) * time.Second, d}) {
				return false
			}
		}
	}
	return true
}

// apexOf is the apex of the zone an owner belongs to, or "".
func (z *Zone) apexOf(o *owner) string {
	if o.zone == ownZone {
		return o.name
	}
	return z.apexNames[o.zone]
}

// find returns the owner's records of one type, those every apex has included,
// or nil.
func (s *snapshot) find(o *owner, recordType uint16) *set {
	for i := range o.sets {
		if o.sets[i].recordType == recordType {
			return &o.sets[i]
		}
	}
	switch recordType {
	case dns.TypeSOA:
		if s.zone.apexOf(o) == o.name {
			return &s.soa
		}
	case dns.TypeNS:
		if s.zone.apexOf(o) == o.name {
			return &s.zone.ns
		}
	}
	return nil
}

// match finds what answers for a name (RFC 1034 section 4.3.2): the owner, which
// is a wildcard when the name itself is not there (RFC 4592 section 3.3.1), or
// nil when there is none, and the apex of its zone, or "" when the name lies in
// no zone of ours.
func (s *snapshot) match(n *name) (o *owner, zone string) {
	if o = s.tree.get(n.hash, n.wire()); o != nil {
		if o.zone == noZone {
			return nil, ""
		}
		return o, s.zone.apexOf(o)
	}
	// An ancestor exists wherever a descendant does, so walking down from the top
	// ends at the closest encloser, however many labels were asked for.
	var encloser *owner
	at := n.labels - 1
	for ; at > 0; at-- {
		suffix := n.from(at)
		above := s.tree.get(hashName(suffix), suffix)
		if above == nil {
			break
		}
		encloser = above
		if above.zone != noZone {
			zone = s.zone.apexOf(above)
		}
	}
	if zone == "" || !encloser.wild {
		return nil, zone
	}
	var wildcard [maxName + 2]byte
	w := append(wildcard[:0], 1, '*')
	w = append(w, encloser.name...)
	return s.tree.get(hashName(w), w), zone
}

// soaSet is the SOA record with a serial number. Refresh, retry and expire speak
// to secondaries, of which there are none, and follow RFC 1912 section 2.2.
func (z *Zone) soaSet(serial uint32) (set, error) {
	b := []byte(z.soaNames)
	for _, v := range [...]uint32{serial, 1200, 180, 1209600, z.negativeTTL} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return makeSet(dns.TypeSOA, z.ttl, []string{string(b)})
}
