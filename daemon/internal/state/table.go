package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/boltfile"
)

const (
	maxKeyPart = 512     // bytes of a name, id or public key that an entry is found by
	maxValue   = 1 << 20 // bytes of an entry as it is stored
)

// A table is a bucket of the file: JSON by keys that follow from it.
type table[E any] struct {
	name string
	key  func(E) []string // parts that tell an entry from all others
}

var (
	nodes       = table[Node]{"node", func(Node) []string { return []string{"node"} }}
	services    = table[Service]{"services", func(s Service) []string { return []string{s.Name} }}
	peers       = table[Peer]{"peers", func(p Peer) []string { return []string{p.PublicKey, p.Service} }}
	attachments = table[Attachment]{"attachments", func(a Attachment) []string { return []string{a.ID} }}
	records     = table[Record]{"records", func(r Record) []string { return []string{r.Name, r.IP.String()} }}
	ports       = table[wire.PublishedPort]{"ports", func(p wire.PublishedPort) []string {
		return []string{string(p.Proto), strconv.Itoa(int(p.HostPort)), p.HostIP.String()}
	}}
)

var format = boltfile.Format{
	About:   "about",
	Buckets: []string{nodes.name, services.name, peers.name, attachments.name, records.name, ports.name},
	Schema:  1,
}

// keyOf is the key of an entry: its parts with zero bytes between them. The first
// may not be empty, and JSON would not give back one that is not UTF-8.
func (t table[E]) keyOf(e E) ([]byte, error) {
	parts := t.key(e)
	for i, p := range parts {
		switch {
		case p == "" && i == 0:
			return nil, errors.New("it has no name, id or key")
		case len(p) > maxKeyPart:
			return nil, fmt.Errorf("%.32q… has %d bytes, and %d are allowed", p, len(p), maxKeyPart)
		case strings.Contains(p, "\x00") || !utf8.ValidString(p):
			return nil, fmt.Errorf("%q has a zero byte or is not UTF-8", p)
		}
	}
	return []byte(strings.Join(parts, "\x00")), nil
}

// encode is an entry as the file has it.
func (t table[E]) encode(e E) (key, value []byte, err error) {
	if key, err = t.keyOf(e); err != nil {
		return nil, nil, err
	}
	if value, err = json.Marshal(e); err != nil {
		return nil, nil, err
	}
	if len(value) > maxValue {
		return nil, nil, fmt.Errorf("%q takes %d bytes, and %d are allowed", key, len(value), maxValue)
	}
	return key, value, nil
}

// decode is the entry of a pair of the file. Fields nobody knows are passed over:
// a version that must not do that finds another schema.
func (t table[E]) decode(key, value []byte) (e E, err error) {
	if err := json.Unmarshal(value, &e); err != nil {
		return e, fmt.Errorf("table %s, key %q: %w", t.name, key, err)
	}
	if want, err := t.keyOf(e); err != nil || string(want) != string(key) {
		return e, fmt.Errorf("table %s, key %q: the entry has another key", t.name, key)
	}
	return e, nil
}

// take adds the entry of a pair of the file to a list.
func (t table[E]) take(list *[]E, key, value []byte) error {
	e, err := t.decode(key, value)
	if err == nil {
		*list = append(*list, e)
	}
	return err
}

// add takes in a pair of the file.
func (st *State) add(name string, key, value []byte) (err error) {
	switch name {
	case nodes.name:
		st.Node, err = nodes.decode(key, value)
	case services.name:
		err = services.take(&st.Services, key, value)
	case peers.name:
		err = peers.take(&st.Peers, key, value)
	case attachments.name:
		err = attachments.take(&st.Attachments, key, value)
	case records.name:
		err = records.take(&st.Records, key, value)
	case ports.name:
		err = ports.take(&st.Ports, key, value)
	default:
		err = fmt.Errorf("there is no table %q", name)
	}
	return err
}
