package dnsd

import (
	"math/bits"
	"slices"
)

// A tree maps canonical names to their owners: a hash array mapped trie whose
// published nodes never change, so that readers need no lock and a change copies
// only the few nodes between the root and a name. A transaction writes in place
// into the nodes it made itself, known by its edit.
type tree struct {
	edit     *edit
	owned    uint32 // slots that hold an owner
	branched uint32 // slots that hold a tree
	owners   []*owner
	branches []*tree
}

// An edit is the identity of one transaction.
type edit struct{ _ byte }

const (
	// treeBits is how many bits of hash a level takes. With 6 a look-up is a level
	// shorter, but the longer copies keep the garbage collector busy.
	treeBits  = 5
	treeDepth = 64 // bits of hash; below it owners with one hash are a list
)

func slot(hash uint64, shift int) uint32 { return 1 << (hash >> shift & (1<<treeBits - 1)) }

func rank(set, bit uint32) int { return bits.OnesCount32(set & (bit - 1)) }

// get returns the owner of a canonical name, or nil.
func (t *tree) get(hash uint64, name []byte) *owner {
	shift := 0
	for t != nil && shift < treeDepth {
		bit := slot(hash, shift)
		if t.owned&bit != 0 {
			o := t.owners[rank(t.owned, bit)]
			if o.hash == hash && o.name == string(name) {
				return o
			}
			return nil
		}
		if t.branched&bit == 0 {
			return nil
		}
		t = t.branches[rank(t.branched, bit)]
		shift += treeBits
	}
	if t != nil {
		for _, o := range t.owners {
			if o.name == string(name) {
				return o
			}
		}
	}
	return nil
}

// own returns t, or a copy of it whose branches e may replace. Its owners are
// still those of t.
func (t *tree) own(e *edit) *tree {
	if t.edit == e {
		return t
	}
	c := *t
	c.edit = e
	c.branches = slices.Clone(t.branches)
	return &c
}

// put adds or replaces the owner of o's name.
func (t *tree) put(e *edit, o *owner, shift int) *tree {
	t = t.own(e)
	if shift >= treeDepth {
		if i := t.listed(o); i >= 0 {
			t.owners = replace(t.owners, i, o)
		} else {
			t.owners = insert(t.owners, len(t.owners), o)
		}
		return t
	}
	bit := slot(o.hash, shift)
	if t.branched&bit != 0 {
		i := rank(t.branched, bit)
		t.branches[i] = t.branches[i].put(e, o, shift+treeBits)
		return t
	}
	i := rank(t.owned, bit)
	if t.owned&bit == 0 {
		t.owners = insert(t.owners, i, o)
		t.owned |= bit
		return t
	}
	other := t.owners[i]
	if other.name == o.name {
		t.owners = replace(t.owners, i, o)
		return t
	}
	below := (&tree{edit: e}).put(e, other, shift+treeBits).put(e, o, shift+treeBits)
	t.owners = remove(t.owners, i)
	t.owned &^= bit
	t.branches = insert(t.branches, rank(t.branched, bit), below)
	t.branched |= bit
	return t
}

// cut removes the owner of o's name, which is there. A branch left with one owner
// is folded into its parent, so that the shape depends only on what the tree
// holds.
func (t *tree) cut(e *edit, o *owner, shift int) *tree {
	t = t.own(e)
	if shift >= treeDepth {
		t.owners = remove(t.owners, t.listed(o))
		return t
	}
	bit := slot(o.hash, shift)
	if t.owned&bit != 0 {
		t.owners = remove(t.owners, rank(t.owned, bit))
		t.owned &^= bit
		return t
	}
	i := rank(t.branched, bit)
	below := t.branches[i].cut(e, o, shift+treeBits)
	if len(below.branches) > 0 || len(below.owners) > 1 {
		t.branches[i] = below
		return t
	}
	t.branches = remove(t.branches, i)
	t.branched &^= bit
	t.owners = insert(t.owners, rank(t.owned, bit), below.owners[0])
	t.owned |= bit
	return t
}

// listed is the place of o's name in a list, or -1.
func (t *tree) listed(o *owner) int {
	return slices.IndexFunc(t.owners, func(other *owner) bool { return other.name == o.name })
}

// each calls yield for every owner until it returns false.
func (t *tree) each(yield func(*owner) bool) bool {
	for _, o := range t.owners {
		if !yield(o) {
			return false
		}
	}
	for _, b := range t.branches {
		if !b.each(yield) {
			return false
		}
	}
	return true
}

// insert, remove and replace return a new slice of the exact length: a tree of a
// million names has as many small slices, and spare room in each would double
// its memory.

func insert[T any](s []T, i int, v T) []T {
	out := make([]T, len(s)+1)
	copy(out, s[:i])
	out[i] = v
	copy(out[i+1:], s[i:])
	return out
}

func remove[T any](s []T, i int) []T {
	if len(s) == 1 {
		return nil
	}
	out := make([]T, len(s)-1)
	copy(out, s[:i])
	copy(out[i:], s[i+1:])
	return out
}

func replace[T any](s []T, i int, v T) []T {
	out := slices.Clone(s)
	out[i] = v
	return out
}
