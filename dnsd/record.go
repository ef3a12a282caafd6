package dnsd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// A Record is one resource record of a zone, of class IN.
type Record struct {
	// Name is relative to the zone's origin unless it ends in a dot. "@" is the
	// origin itself, and a first label of "*" makes a wildcard (RFC 4592). Dots
	// and other bytes inside a label are escaped as in RFC 1035 section 5.1.
	Name string
	// TTL is how long a resolver may keep the record, in whole seconds; 0 means
	// the zone's. All records of one name and type share one TTL (RFC 2181
	// section 5.2): that of the record added last.
	TTL  time.Duration
	Data Data
}

// Data is what a record holds: an Address, CNAME, PTR, SRV or TXT. Names within
// it follow the rule of Record.Name.
type Data interface {
	// pack appends the wire form (RFC 1035 section 3.2.1, RDATA).
	pack(b []byte, origin string) ([]byte, error)
	recordType() uint16
}

type (
	// An Address is an A or, for IPv6, an AAAA record (RFC 1035, RFC 3596). An
	// IPv4 address mapped into IPv6 is an A record.
	Address netip.Addr
	// A CNAME names what its owner is an alias of. The owner has no other records
	// (RFC 1034 section 3.6.2).
	CNAME string
	// A PTR names what an address belongs to. Those of addresses in the zone are
	// made by the zone itself.
	PTR string
	// An SRV says where a service is (RFC 2782).
	SRV struct {
		Priority, Weight, Port uint16
		Target                 string
	}
	// A TXT is a list of strings of at most 255 bytes each.
	TXT []string
)

// ErrRecord is what an error about a record that cannot be served unwraps to.
var ErrRecord = errors.New("not a usable record")

// String is the address.
func (d Address) String() string { return netip.Addr(d).String() }

func (d Address) recordType() uint16 {
	if netip.Addr(d).Unmap().Is4() {
		return dns.TypeA
	}
	return dns.TypeAAAA
}
func (CNAME) recordType() uint16 { return dns.TypeCNAME }
func (PTR) recordType() uint16   { return dns.TypePTR }
func (SRV) recordType() uint16   { return dns.TypeSRV }
func (TXT) recordType() uint16   { return dns.TypeTXT }

func (d Address) pack(b []byte, _ string) ([]byte, error) {
	a := netip.Addr(d)
	if !a.IsValid() || a.Zone() != "" {
		return nil, fmt.Errorf("dnsd: address %v: %w: an address without a zone is needed", a, ErrRecord)
	}
	return append(b, a.Unmap().AsSlice()...), nil
}

func (d CNAME) pack(b []byte, origin string) ([]byte, error) { return appendName(b, string(d), origin) }
func (d PTR) pack(b []byte, origin string) ([]byte, error)   { return appendName(b, string(d), origin) }

func (d SRV) pack(b []byte, origin string) ([]byte, error) {
	b = binary.BigEndian.AppendUint16(b, d.Priority)
	b = binary.BigEndian.AppendUint16(b, d.Weight)
	b = binary.BigEndian.AppendUint16(b, d.Port)
	return appendName(b, d.Target, origin)
}

func (d TXT) pack(b []byte, _ string) ([]byte, error) {
	if len(d) == 0 { // RFC 1035 section 3.3.14: one or more strings
		return nil, fmt.Errorf("dnsd: TXT: %w: it needs a string", ErrRecord)
	}
	for _, s := range d {
		if len(s) > 255 {
			return nil, fmt.Errorf("dnsd: TXT: %w: a string of %d bytes, at most 255 fit", ErrRecord, len(s))
		}
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	return b, nil
}

func appendName(b []byte, text, origin string) ([]byte, error) {
	wire, err := packName(text, origin)
	if err != nil {
		return nil, err
	}
	return append(b, wire...), nil
}

// indexData is the place of data among that of other records of its type, or -1.
// Names in it are compared without regard to case.
func indexData(rdatas []string, recordType uint16, rdata string) int {
	name := len(rdata)
	switch recordType {
	case dns.TypeCNAME, dns.TypePTR:
		name = 0
	case dns.TypeSRV:
		name = 6
	}
	return slices.IndexFunc(rdatas, func(other string) bool {
		return len(other) == len(rdata) && other[:name] == rdata[:name] && canonical(other[name:]) == canonical(rdata[name:])
	})
}

// unpackData is the inverse of pack. ok is false for a type that has no Data.
func unpackData(recordType uint16, rdata string) (d Data, ok bool) {
	switch recordType {
	case dns.TypeA, dns.TypeAAAA:
		a, _ := netip.AddrFromSlice([]byte(rdata))
		return Address(a), true
	case dns.TypeCNAME:
		return CNAME(nameText(rdata)), true
	case dns.TypePTR:
		return PTR(nameText(rdata)), true
	case dns.TypeSRV:
		b := []byte(rdata)
		return SRV{
			Priority: binary.BigEndian.Uint16(b),
			Weight:   binary.BigEndian.Uint16(b[2:]),
			Port:     binary.BigEndian.Uint16(b[4:]),
			Target:   nameText(rdata[6:]),
		}, true
	case dns.TypeTXT:
		var txt TXT
		for len(rdata) > 0 {
			n := 1 + int(rdata[0])
			txt = append(txt, strings.Clone(rdata[1:n]))
			rdata = rdata[n:]
		}
		return txt, true
	}
	return nil, false
}

// A set is the records of one name and type, ready to be copied behind a
// question: each begins with a pointer to the question's name (RFC 1035 section
// 4.1.4), and ends with its data, in which names are not compressed.
type set struct {
	recordType uint16
	count      uint16
	ttl        uint32
	wire       string
}

const (
	// rrHeader is a record without its data: a pointer to its name, type, class,
	// TTL and the length of the data.
	rrHeader = 2 + 2 + 2 + 4 + 2
	// questionName is a pointer to the name of a message's first question.
	questionName = 0xc000 | headerSize
	headerSize   = 12
	// maxSet leaves room in a message of 65,535 bytes for the longest question, a
	// chain of aliases and an OPT record.
	maxSet = 60000
)

// appendRecord writes a whole record, its name being the pointer at.
func appendRecord(b []byte, at uint16, recordType uint16, ttl uint32, rdata string) []byte {
	b = binary.BigEndian.AppendUint16(b, at)
	b = binary.BigEndian.AppendUint16(b, recordType)
	b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
	b = binary.BigEndian.AppendUint32(b, ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(rdata)))
	return append(b, rdata...)
}

// firstRecord is the length of the record wire begins with.
func firstRecord(wire string) int {
	return rrHeader + (int(wire[rrHeader-2])<<8 | int(wire[rrHeader-1]))
}

// data yields the data of each record.
func (s set) data(yield func(rdata string) bool) {
	for w := s.wire; len(w) > 0; {
		n := firstRecord(w)
		if !yield(w[rrHeader:n]) {
			return
		}
		w = w[n:]
	}
}

// makeSet builds a set from the data of its records.
func makeSet(recordType uint16, ttl uint32, rdatas []string) (set, error) {
	size := 0
	for _, r := range rdatas {
		size += rrHeader + len(r)
	}
	if size > maxSet {
		return set{}, fmt.Errorf("dnsd: %s: %w: %d records of %d bytes, a message holds %d",
			dns.TypeToString[recordType], ErrRecord, len(rdatas), size, maxSet)
	}
	b := make([]byte, 0, size)
	for _, r := range rdatas {
		b = appendRecord(b, questionName, recordType, ttl, r)
	}
	return set{recordType, uint16(len(rdatas)), ttl, string(b)}, nil
}
