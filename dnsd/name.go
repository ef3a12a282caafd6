package dnsd

import (
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
