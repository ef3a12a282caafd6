package dnsd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/miekg/dns"
)

// Names are kept in wire form (RFC 1035 section 3.1): labels with their lengths,
// ended by the root's empty label. The canonical form is in lower case, because
// names are compared without regard to case (RFC 4343).

const (
	maxName   = 255 // bytes of a name in wire form (RFC 1035 section 2.3.4)
	maxLabels = 127 // labels a name of that length has at most, the root excluded
)

// ErrName is what a NameError is.
var ErrName = errors.New("not a usable name")

// A NameError says which name cannot be used and why.
type NameError struct {
	Name string
	Why  string
}

func (e *NameError) Error() string { return fmt.Sprintf("dnsd: name %q: %s", e.Name, e.Why) }

// Unwrap makes every NameError an ErrName.
func (e *NameError) Unwrap() error { return ErrName }

// packName turns text into wire form, keeping its case. A name without a final
// dot is relative to origin, which is in wire form; "@" and "" are the origin.
func packName(text, origin string) (string, error) {
	if text == "@" || text == "" {
		return origin, nil
	}
	var buf [maxName + 1]byte
	n, err := dns.PackDomainName(dns.Fqdn(text), buf[:], 0, nil, false)
	if err != nil {
		return "", &NameError{text, "is not made of labels of 1 to 63 bytes, 255 in all"}
	}
	wire := string(buf[:n])
	if !dns.IsFqdn(text) {
		wire = wire[:n-1] + origin
	}
	if len(wire) > maxName {
		return "", &NameError{text, "is longer than 255 bytes"}
	}
	return wire, nil
}

// nameText is the presentation form of a name in wire form, with a final dot.
func nameText(wire string) string {
	text, _, err := dns.UnpackDomainName([]byte(wire), 0)
	if err != nil {
		return fmt.Sprintf("%q", wire)
	}
	return text
}

// canonical is a wire-form name in lower case. Length bytes are at most 63 and
// so never mistaken for letters.
func canonical(wire string) string {
	for i := range len(wire) {
		if lower[wire[i]] != wire[i] {
			b := []byte(wire)
			toLower(b)
			return string(b)
		}
	}
	return wire
}

// lower maps ASCII letters to lower case and every other byte to itself.
var lower = func() (t [256]byte) {
	for i := range t {
		t[i] = byte(i)
		if 'A' <= i && i <= 'Z' {
			t[i] += 'a' - 'A'
		}
	}
	return t
}()

func toLower(b []byte) {
	for i, c := range b {
		b[i] = lower[c]
	}
}

// parent is a name without its first label. The root has none.
func parent(wire string) string { return wire[1+int(wire[0]):] }

// within reports whether a canonical name is apex or stands below it.
func within(name, apex string) bool {
	for len(name) > len(apex) {
		name = parent(name)
	}
	return name == apex
}

// isWildcard reports whether the first label is a single asterisk (RFC 4592
// section 2.1.1).
func isWildcard(wire string) bool { return len(wire) > 2 && wire[0] == 1 && wire[1] == '*' }

var seed = maphash.MakeSeed()

// hashName hashes a canonical name with a key of this process, so that nobody
// can choose names that collide.
func hashName(wire []byte) uint64 { return maphash.Bytes(seed, wire) }

// A name is a canonical name taken apart.
type name struct {
	bytes   [maxName]byte
	offsets [maxLabels]uint8 // of each label
	length  int
	labels  int // the root excluded
	hash    uint64
}

func (n *name) wire() []byte      { return n.bytes[:n.length] }
func (n *name) from(i int) []byte { return n.bytes[n.offsets[i]:n.length] }

// within reports whether the name is apex or stands below it.
func (n *name) within(apex string) bool {
	at := n.length - len(apex)
	if at < 0 || string(n.bytes[at:n.length]) != apex {
		return false
	}
	for i := range n.labels {
		if int(n.offsets[i]) == at {
			return true
		}
	}
	return false
}

// read takes the name b begins with, in lower case, and returns its length, or 0
// when it is malformed or compressed, which a question's name never is.
func (n *name) read(b []byte) int {
	at, labels := 0, 0
	for {
		if at >= len(b) || at >= maxName {
			return 0
		}
		size := int(b[at])
		if size == 0 {
			break
		}
		if size > 63 || labels == maxLabels {
			return 0
		}
		n.offsets[labels] = uint8(at)
		labels++
		at += 1 + size
	}
	n.length, n.labels = at+1, labels
	copyLower(n.bytes[:], b[:n.length])
	n.hash = hashName(n.bytes[:n.length])
	return n.length
}

// copyLower copies src into dst, which is at least as long, in lower case, eight
// bytes at a time. Lengths of labels are below the letters.
func copyLower(dst, src []byte) {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(src); i += 8 {
		w := binary.LittleEndian.Uint64(src[i:])
		// Of the low seven bits of each byte: 0x80 where they are at least 'A', and
		// where they are beyond 'Z'.
		low := w &^ high
		upper := (low + ones*(0x80-'A')) &^ (low + ones*(0x80-'Z'-1)) &^ w & high
		binary.LittleEndian.PutUint64(dst[i:], w|upper>>2)
	}
	for ; i < len(src); i++ {
		dst[i] = lower[src[i]]
	}
}
