package ipam

import (
	"fmt"
	"iter"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	helpers.Main() // does not return in a process started by a test
	goleak.VerifyTestMain(m)
}

var (
	cluster  = netip.MustParsePrefix("10.200.0.0/16")
	cluster6 = netip.MustParsePrefix("fd00:200::/48")
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func node(id string) Owner      { return Owner{Kind: KindNode, ID: id} }
func service(id string) Owner   { return Owner{Kind: KindService, ID: id} }
func container(id string) Owner { return Owner{Kind: "container", ID: id} }

// A bed is an authority under test, in memory or in a file.
type bed struct {
	*Authority
	t      testing.TB
	config Config
	path   string // "": memory
}

// each runs a test over both kinds of authority. When it ends the state must be
// sound, and one in a file must come back from it.
func each(t *testing.T, c Config, test func(t *testing.T, b *bed)) {
	t.Run("memory", func(t *testing.T) { run(t, c, "", test) })
	t.Run("file", func(t *testing.T) { run(t, c, newPath(t), test) })
}

// eachInTime is each, with a clock that waits for nobody.
func eachInTime(t *testing.T, c Config, test func(t *testing.T, b *bed)) {
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { run(t, c, "", test) })
	})
	t.Run("file", func(t *testing.T) {
		path := newPath(t)
		synctest.Test(t, func(t *testing.T) { run(t, c, path, test) })
	})
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "state", "leases.db") }

func run(t *testing.T, c Config, path string, test func(t *testing.T, b *bed)) {
	var a *Authority
	var err error
	if path == "" {
		a, err = NewMemory(c)
	} else {
		a, err = Open(path, c)
	}
	require.NoError(t, err)
	b := &bed{Authority: a, t: t, config: c, path: path}
	test(t, b)
	b.restart()
	require.NoError(t, b.Close())
}

// restart closes and opens an authority in a file; one in memory it leaves alone.
func (b *bed) restart() {
	b.t.Helper()
	requireSound(b.t, b.Authority)
	if b.path == "" {
		return
	}
	before := contents(b.Authority)
	require.NoError(b.t, b.Close())
	a, err := Open(b.path, b.config)
	require.NoError(b.t, err)
	b.Authority = a
	requireSound(b.t, a)
	requireSame(b.t, before, contents(a))
}

// contents is everything an authority would have in its file, as text.
func contents(a *Authority) map[string]string {
	all := make(map[string]string, a.records.n)
	for r := range a.records.all() {
		all[r.addr.String()] = string(appendRecord(nil, r.version()))
	}
	for p, c := range a.claims.All() {
		all[p.String()] = string(appendClaim(nil, c))
	}
	return all
}

// requireSame compares contents and tells what is different only.
func requireSame(t testing.TB, want, got map[string]string) {
	t.Helper()
	if diff := difference(want, got); diff != "" {
		require.FailNow(t, diff)
	}
}

func difference(want, got map[string]string) string {
	var diff []string
	for k, v := range want {
		if g, ok := got[k]; !ok || g != v {
			diff = append(diff, fmt.Sprintf("%s is %q, want %q", k, g, v))
		}
	}
	for k, g := range got {
		if _, ok := want[k]; !ok {
			diff = append(diff, fmt.Sprintf("%s is %q, want none", k, g))
		}
	}
	return strings.Join(diff, "\n")
}

// requireSound checks every index of an authority against its records and claims.
func requireSound(t testing.TB, a *Authority) {
	t.Helper()
	if err := sound(a); err != nil {
		require.FailNow(t, err.Error())
	}
}

func sound(a *Authority) error {
	type tally struct {
		taken                 []span
		leases, resting, rest int
		claims                int
	}
	pools := make(map[*pool]*tally)
	subnets, leases, remembered := 0, 0, 0
	for p, c := range a.claims.All() {
		if p != c.prefix || (c.class == classReserved) != (c.pool == nil) || (c.class == classRoot) != (c.parent == nil) {
			return fmt.Errorf("claim %s is of no kind", p)
		}
		if c.pool != nil {
			if a.pools[p] != c.pool || c.pool.prefix != p {
				return fmt.Errorf("pool %s is not in the index", p)
			}
			pools[c.pool] = &tally{}
		}
		if c.class == classSubnet {
			if subnets++; a.subnets[c.key()] != c {
				return fmt.Errorf("subnet %s is not in the index", p)
			}
		}
	}
	if len(pools) != len(a.pools) || subnets != len(a.subnets) {
		return fmt.Errorf("%d pools and %d subnets, %d and %d in the indexes", len(pools), subnets, len(a.pools), len(a.subnets))
	}
	for p, c := range a.claims.All() {
		if c.parent == nil {
			continue
		}
		n := pools[c.parent]
		if n == nil {
			return fmt.Errorf("claim %s has no parent", p)
		}
		lo, hi := rangeOf(p)
		n.taken = append(n.taken, span{lo, hi})
		n.claims++
	}
	owned := make(map[*record]bool)
	for k, r := range a.owned.all() {
		if r.prevOwned != nil {
			return fmt.Errorf("the records of %v do not begin with the first", k)
		}
		for ; r != nil; r = r.nextOwned {
			if r.nextOwned != nil && r.nextOwned.prevOwned != r || r.owner.key() != k || owned[r] {
				return fmt.Errorf("the records of %v are tangled", k)
			}
			owned[r] = true
		}
	}
	found := 0
	for r := range a.records.all() {
		addr := r.addr
		found++
		n := pools[r.pool]
		if n == nil || a.records.get(addr) != r || !owned[r] {
			return fmt.Errorf("record %s has no pool or no owner", addr)
		}
		if c, ok := a.claims.Lookup(addr); !ok || c.pool != r.pool {
			return fmt.Errorf("record %s is in the wrong pool", addr)
		}
		number := fromAddr(addr)
		if !r.rested() {
			n.taken = append(n.taken, span{number, number})
		}
		switch {
		case r.isLease():
			n.leases++
			leases++
		case r.rested():
			n.rest++
			remembered++
		default:
			n.resting++
		}
	}
	if len(owned) != a.records.n || found != a.records.n || leases != a.leases || remembered != a.remembered {
		return fmt.Errorf("%d records of owners, %d in all; %d leases, %d counted; %d remembered, %d counted",
			len(owned), a.records.n, leases, a.leases, remembered, a.remembered)
	}
	for p, n := range pools {
		if err := soundSpans(p, n.taken); err != nil {
			return fmt.Errorf("pool %s: %w", p.prefix, err)
		}
		if n.leases != p.leases || n.claims != p.claims {
			return fmt.Errorf("pool %s: %d leases and %d claims, %d and %d counted", p.prefix, n.leases, n.claims, p.leases, p.claims)
		}
		for _, q := range []struct {
			queue  *queue
			n      int
			rested bool
		}{{&p.resting, n.resting, false}, {&p.rested, n.rest, true}} {
			found := 0
			var last *record
			for r := q.queue.front; r != nil; last, r = r, r.next {
				if found++; r.prev != last || r.rested() != q.rested || last != nil && last.seq >= r.seq || a.records.get(r.addr) != r {
					return fmt.Errorf("pool %s: a queue is tangled at %s", p.prefix, r.addr)
				}
			}
			if found != q.n || q.queue.n != q.n || q.queue.back != last {
				return fmt.Errorf("pool %s: a queue has %d of %d", p.prefix, found, q.n)
			}
		}
	}
	return nil
}

// soundSpans checks that what is free in a pool is what is not taken.
func soundSpans(p *pool, taken []span) error {
	var want spans
	want.add(rangeOf(p.prefix))
	for _, s := range taken {
		if !want.contains(s.lo, s.hi) {
			return fmt.Errorf("%s is taken twice", s.lo.addr(p.bits))
		}
		want.remove(s.lo, s.hi)
	}
	var last *span
	var is, should []span
	for _, block := range p.free.blocks {
		if len(block) == 0 || len(block) > blockLen {
			return fmt.Errorf("a block of %d runs", len(block))
		}
		for i := range block {
			if s := &block[i]; s.hi.less(s.lo) || last != nil && !last.hi.next().less(s.lo) {
				return fmt.Errorf("runs out of order at %s", s.lo.addr(p.bits))
			} else {
				last = s
			}
		}
		is = append(is, block...)
	}
	for _, block := range want.blocks {
		should = append(should, block...)
	}
	if fmt.Sprint(is) != fmt.Sprint(should) {
		return fmt.Errorf("free is %v and should be %v", is, should)
	}
	return nil
}

// all is the first record of each owner.
func (x *ownerIndex) all() iter.Seq2[ownerKey, *record] {
	return func(yield func(ownerKey, *record) bool) {
		for kind, ids := range x.kinds {
			for id, r := range ids {
				if !yield(ownerKey{kind, id}, r) {
					return
				}
			}
		}
	}
}
