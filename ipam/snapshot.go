package ipam

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"unicode/utf8"
)

// A Snapshot is the subnets of one kind and size that were carved out of a pool,
// in a form to hand to another authority. As JSON it is, on one line, of node
// slices
//
//	{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,
//	 "assigned":[["node-a","10.200.181.48/28"]]}
//
// and of the subnets of services
//
//	{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,
//	 "assignments":[[["svc-a","node-1"],"10.200.103.32/28"]]}
type Snapshot struct {
	Kind    string // KindNode or KindService
	Cluster netip.Prefix
	Bits    int
	Entries []SnapshotEntry
}

// A SnapshotEntry is one subnet: a node's, or a service's on a node.
type SnapshotEntry struct {
	ID, Node string // of a service; a node is the ID and Node is empty
	Prefix   netip.Prefix
}

// Snapshot is what Assign carved out of a pool for owners of a kind, KindNode or
// KindService, in subnets of a size. It is sorted, so equal states are equal bytes.
func (a *Authority) Snapshot(kind string, pool netip.Prefix, bits int) Snapshot {
	s := Snapshot{Kind: kind, Cluster: pool, Bits: bits}
	for sub := range a.Subnets(pool) {
		if sub.Owner.Kind == kind && sub.Prefix.Bits() == bits {
			s.Entries = append(s.Entries, SnapshotEntry{sub.Owner.ID, sub.Node, sub.Prefix})
		}
	}
	slices.SortFunc(s.Entries, func(e, f SnapshotEntry) int {
		return cmp.Or(cmp.Compare(e.ID, f.ID), cmp.Compare(e.Node, f.Node))
	})
	return s
}

// Restore assigns what a snapshot has, all of it or nothing. The cluster becomes a
// pool if it is none. What is assigned in just this way already stays; an entry
// that overlaps another or anything handed out, that is there twice, that has
// another size or is not aligned to it, or lies outside the cluster is refused.
func (tx *Tx) Restore(s Snapshot) error {
	mark := len(tx.changes)
	if err := tx.restore(s); err != nil {
		tx.rollback(mark)
		return fmt.Errorf("ipam: restore a snapshot: %w", err)
	}
	return nil
}

func (tx *Tx) restore(s Snapshot) error {
	cluster := s.Cluster.Masked()
	if s.Kind != KindNode && s.Kind != KindService {
		return fmt.Errorf("%w: it is of kind %q", ErrInvalid, s.Kind)
	}
	if !cluster.IsValid() || s.Bits <= cluster.Bits() || s.Bits > cluster.Addr().BitLen() {
		return fmt.Errorf("%w: subnets of %d bits in cluster %s", ErrInvalid, s.Bits, s.Cluster)
	}
	if tx.a.pools[cluster] == nil {
		if err := tx.AddPool(cluster); err != nil {
			return err
		}
	}
	seen := make(map[SnapshotEntry]bool, len(s.Entries))
	for _, e := range s.Entries {
		owner := SnapshotEntry{ID: e.ID, Node: e.Node}
		if seen[owner] {
			return fmt.Errorf("%w: %q %q is there twice", ErrInvalid, e.ID, e.Node)
		}
		seen[owner] = true
		if !e.Prefix.IsValid() {
			return fmt.Errorf("%w: %q %q has no subnet", ErrInvalid, e.ID, e.Node)
		}
		_, err := tx.Assign(SubnetRequest{
			Pool: cluster, Bits: s.Bits, Owner: Owner{Kind: s.Kind, ID: e.ID}, Node: e.Node, Prefix: e.Prefix,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Restore assigns what a snapshot has; see [Tx.Restore].
func (a *Authority) Restore(s Snapshot) error {
	return a.Update(func(tx *Tx) error { return tx.Restore(s) })
}

// MarshalJSON writes the form above, its text as it is: only quotes, backslashes
// and control characters are escaped. ([json.Marshal] escapes <, > and & besides.)
func (s Snapshot) MarshalJSON() ([]byte, error) {
	var b []byte
	b = append(b, `{"cluster_cidr":`...)
	b = appendQuoted(b, s.Cluster.String())
	b = append(b, `,"slice_prefix":`...)
	b = strconv.AppendInt(b, int64(s.Bits), 10)
	switch s.Kind {
	case KindNode:
		b = append(b, `,"assigned":[`...)
	case KindService:
		b = append(b, `,"assignments":[`...)
	default:
		return nil, fmt.Errorf("ipam: %w: a snapshot of kind %q", ErrInvalid, s.Kind)
	}
	for i, e := range s.Entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '[')
		if s.Kind == KindNode {
			b = appendQuoted(b, e.ID)
		} else {
			b = append(b, '[')
			b = appendQuoted(b, e.ID)
			b = append(b, ',')
			b = appendQuoted(b, e.Node)
			b = append(b, ']')
		}
		b = append(b, ',')
		b = appendQuoted(b, e.Prefix.String())
		b = append(b, ']')
	}
	return append(b, ']', '}'), nil
}

// appendQuoted appends a JSON string (RFC 8259, 7), escaping only what must be.
func appendQuoted(b []byte, s string) []byte {
	const short = "btn\x00fr" // of U+0008 to U+000D; U+000B has none
	b = append(b, '"')
	for _, c := range []byte(s) {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= 0x08 && c <= 0x0d && c != 0x0b:
			b = append(b, '\\', short[c-0x08])
		case c < 0x20:
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// UnmarshalJSON reads the form above. It looks at the shape only: Restore tells
// whether what a snapshot says can be.
func (s *Snapshot) UnmarshalJSON(data []byte) error {
	if !utf8.Valid(data) {
		return fmt.Errorf("ipam: %w: a snapshot that is not UTF-8", ErrInvalid)
	}
	var form struct {
		Cluster     *netip.Prefix  `json:"cluster_cidr"`
		Bits        *uint8         `json:"slice_prefix"`
		Assigned    *[]nodePair    `json:"assigned"`
		Assignments *[]servicePair `json:"assignments"`
	}
	if err := json.Unmarshal(data, &form); err != nil {
		return fmt.Errorf("ipam: %w: snapshot: %w", ErrInvalid, err)
	}
	if form.Cluster == nil || form.Bits == nil || (form.Assigned == nil) == (form.Assignments == nil) {
		return fmt.Errorf("ipam: %w: a snapshot has cluster_cidr, slice_prefix, and assigned or assignments", ErrInvalid)
	}
	read := Snapshot{Cluster: *form.Cluster, Bits: int(*form.Bits)}
	if form.Assigned != nil {
		read.Kind = KindNode
		for _, e := range *form.Assigned {
			read.Entries = append(read.Entries, SnapshotEntry(e))
		}
	} else {
		read.Kind = KindService
		for _, e := range *form.Assignments {
			read.Entries = append(read.Entries, SnapshotEntry(e))
		}
	}
	*s = read
	return nil
}

// A nodePair is read from [node, subnet], a servicePair from [[service, node],
// subnet].
type (
	nodePair    SnapshotEntry
	servicePair SnapshotEntry
)

func (p *nodePair) UnmarshalJSON(data []byte) error {
	var pair []string
	if err := json.Unmarshal(data, &pair); err != nil {
		return err
	}
	if len(pair) != 2 {
		return fmt.Errorf("%d strings where a node and a subnet belong", len(pair))
	}
	prefix, err := netip.ParsePrefix(pair[1])
	*p = nodePair{ID: pair[0], Prefix: prefix}
	return err
}

func (p *servicePair) UnmarshalJSON(data []byte) error {
	var pair []json.RawMessage
	if err := json.Unmarshal(data, &pair); err != nil {
		return err
	}
	if len(pair) != 2 {
		return fmt.Errorf("%d values where a pair and a subnet belong", len(pair))
	}
	var key []string
	if err := json.Unmarshal(pair[0], &key); err != nil {
		return err
	}
	if len(key) != 2 {
		return fmt.Errorf("%d strings where a service and a node belong", len(key))
	}
	*p = servicePair{ID: key[0], Node: key[1]}
	return json.Unmarshal(pair[1], &p.Prefix)
}
