package ipam

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The pools of the property tests: small, so that they fill, and of both families.
var propertyPools = []netip.Prefix{
	prefix("10.0.0.0/27"), prefix("10.0.1.0/26"), prefix("fd00::/123"), prefix("192.0.2.0/31"), prefix("fd01::/127"),
}

var extraPool = prefix("10.0.2.0/28")

// A player makes random operations on an authority and its model at once.
type player struct {
	rng    *rand.Rand
	owners []Owner
}

func newPlayer(seed uint64) *player {
	p := &player{rng: rand.New(rand.NewPCG(seed, 0))}
	for i := range 24 {
		p.owners = append(p.owners, container(strconv.Itoa(i)))
	}
	for i := range 4 {
		p.owners = append(p.owners, node(strconv.Itoa(i)), service(strconv.Itoa(i)))
	}
	return p
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// pool is one to ask: mostly one there is.
func (p *player) pool(m *model) netip.Prefix {
	var pools []netip.Prefix
	for q, c := range m.claims {
		if c.class != classReserved {
			pools = append(pools, q)
		}
	}
	slices.SortFunc(pools, netip.Prefix.Compare)
	return pick(p.rng, append(pools, extraPool))
}

// prefix is one in a pool, or nearly.
func (p *player) prefix(pool netip.Prefix) netip.Prefix {
	bits := min(pool.Bits()+p.rng.IntN(6), pool.Addr().BitLen())
	q := netip.PrefixFrom(p.addr(pool), bits)
	if p.rng.IntN(10) > 0 {
		q = q.Masked()
	}
	return q
}

// addr is one in a pool, or just behind it.
func (p *player) addr(pool netip.Prefix) netip.Addr {
	lo, hi := rangeOf(pool)
	size := hi.sub(lo).lo + 2
	return lo.add(uint128{0, p.rng.Uint64N(size)}).addr(pool.Addr().BitLen())
}

// leases are some that are held, and at times one that is not.
func (p *player) leases(m *model) []Lease {
	var live []Lease
	for a, r := range m.addrs {
		if r.live {
			live = append(live, Lease{Addr: a, Owner: r.owner})
		}
	}
	slices.SortFunc(live, func(l, k Lease) int { return l.Addr.Compare(k.Addr) })
	var some []Lease
	for range 1 + p.rng.IntN(3) {
		if len(live) > 0 {
			some = append(some, pick(p.rng, live))
		}
	}
	if p.rng.IntN(8) == 0 {
		some = append(some, Lease{Addr: p.addr(p.pool(m)), Owner: pick(p.rng, p.owners)})
	}
	return some
}

// claims are those of a class, in order.
func (p *player) claims(m *model, class class) []netip.Prefix {
	var all []netip.Prefix
	for q, c := range m.claims {
		if c.class == class {
			all = append(all, q)
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return all
}

// step makes one random operation in a transaction and compares what came of it.
func (p *player) step(tx *Tx, m *model) error {
	pool, o, now := p.pool(m), pick(p.rng, p.owners), time.Unix(0, tx.now)
	switch p.rng.IntN(20) {
	case 0, 1, 2, 3, 4:
		l, err := tx.Allocate(pool, o)
		want, wantErr := m.allocate(pool, o, now)
		return same("allocate", pool, l.Addr, want, err, wantErr)
	case 5, 6, 7, 8:
		a := p.addr(pool)
		l, err := tx.AllocateAddr(a, o)
		want, wantErr := a, m.allocateAddr(a, o, now)
		if wantErr != nil {
			want = netip.Addr{}
		}
		return same("allocate", a, l.Addr, want, err, wantErr)
	case 9, 10, 11, 12, 13:
		some := p.leases(m)
		return same("release", some, 0, 0, tx.Release(some...), m.release(now, some...))
	case 14, 15:
		r := SubnetRequest{Pool: pool, Bits: pool.Bits() + p.rng.IntN(4), Owner: o}
		if o.Kind == KindService {
			r.Node = pick(p.rng, []string{"", "1", "2"})
		}
		switch p.rng.IntN(4) {
		case 0:
			r.Prefix, r.Bits = p.prefix(pool), 0
		case 1:
			r.Exclude = []netip.Prefix{p.prefix(pool), p.prefix(pool)}
		}
		if !r.Prefix.IsValid() && r.Bits == 0 {
			r.Bits = 1
		}
		s, err := tx.Assign(r)
		want, wantErr := m.assign(r, now)
		return same("assign", r, s.Prefix, want, err, wantErr)
	case 16:
		all := append(p.claims(m, classSubnet), p.prefix(pool))
		q := pick(p.rng, all)
		s := Subnet{Prefix: q, Owner: m.claims[q].owner, Node: m.claims[q].node}
		if p.rng.IntN(8) == 0 {
			s.Owner = o
		}
		return same("unassign", s, 0, 0, tx.Unassign(s), m.unassign(s))
	case 17:
		q := p.prefix(pool)
		return same("reserve", q, 0, 0, tx.Reserve(q, o), m.reserve(q, o, now))
	case 18:
		q := pick(p.rng, append(p.claims(m, classReserved), p.prefix(pool)))
		if c, ok := m.claims[q]; ok && p.rng.IntN(8) > 0 {
			o = c.owner
		}
		return same("unreserve", q, 0, 0, tx.Unreserve(q, o), m.unreserve(q, o))
	default:
		q := pick(p.rng, []netip.Prefix{extraPool, extraPool, pool, prefix("10.0.0.0/20")})
		if p.rng.IntN(2) == 0 {
			return same("add pool", q, 0, 0, tx.AddPool(q), m.addPool(q))
		}
		return same("remove pool", q, 0, 0, tx.RemovePool(q), m.removePool(q))
	}
}

func same[T comparable](op string, what any, got, want T, err, wantErr error) error {
	if (err == nil) != (wantErr == nil) || !errors.Is(err, wantErr) || got != want {
		return fmt.Errorf("%s %v: got %v, %w; want %v, %w", op, what, got, err, want, wantErr)
	}
	return nil
}

// sameState compares all that is leased, remembered and claimed.
func sameState(a *Authority, m *model) error {
	if a.records.n != len(m.addrs) {
		return fmt.Errorf("%d records, want %d", a.records.n, len(m.addrs))
	}
	for addr, want := range m.addrs {
		r := a.records.get(addr)
		if r == nil || r.isLease() != want.live || !r.owner.Is(want.owner) || r.pool.prefix != want.pool ||
			!want.live && r.released != want.released.UnixNano() {
			return fmt.Errorf("record of %s is %+v, want %+v", addr, r, want)
		}
	}
	claims := make(map[netip.Prefix]modelClaim)
	for p, c := range a.claims.All() {
		mc := modelClaim{class: c.class, owner: c.owner, node: c.node}
		if c.parent != nil {
			mc.parent = c.parent.prefix
		}
		claims[p] = mc
	}
	if !maps.EqualFunc(claims, m.claims, func(c, d modelClaim) bool {
		return c.class == d.class && c.owner.Is(d.owner) && c.node == d.node && c.parent == d.parent
	}) {
		return fmt.Errorf("claims are %v, want %v", claims, m.claims)
	}
	return nil
}

var errUndo = errors.New("undo")

// TestEveryOperationAgreesWithTheOracle lets 16 goroutines make random operations,
// each compared with the model in the order of the transactions, which is the
// order in which the authority runs them. One transaction in eight is taken back.
func TestEveryOperationAgreesWithTheOracle(t *testing.T) {
	const players = 16
	steps := map[bool]int{false: 100, true: 20}
	eachInTime(t, Config{}, func(t *testing.T, b *bed) {
		for _, p := range propertyPools {
			require.NoError(t, b.AddPool(p))
		}
		m := newModel(defaultRest, propertyPools...)
		play := func(p *player, n int) error {
			for i := range n {
				if p.rng.IntN(10) == 0 {
					time.Sleep(time.Duration(p.rng.IntN(40)) * time.Second)
				}
				err := b.Update(func(tx *Tx) error {
					undo := p.rng.IntN(8) == 0
					before := m.clone()
					for range 1 + p.rng.IntN(4) {
						if err := p.step(tx, m); err != nil {
							return err
						}
					}
					if undo {
						*m = *before
						return errUndo
					}
					return sameState(b.Authority, m)
				})
				if err != nil && !errors.Is(err, errUndo) {
					return fmt.Errorf("step %d: %w", i, err)
				}
			}
			return nil
		}
		for round := range 4 {
			var wg sync.WaitGroup
			errs := make([]error, players)
			for i := range players {
				wg.Go(func() {
					errs[i] = play(newPlayer(uint64(round*players+i)), steps[b.path != ""])
				})
			}
			wg.Wait()
			require.NoError(t, errors.Join(errs...))
			require.NoError(t, sameState(b.Authority, m))
			requireReaders(t, b.Authority, m)
			b.restart()
			if b.path != "" {
				m.restarted()
			}
		}
	})
}

// requireReaders compares what the reading methods say with the model.
func requireReaders(t *testing.T, a *Authority, m *model) {
	t.Helper()
	live := make(map[netip.Prefix]int)
	owned := make(map[string][]netip.Addr)
	total := 0
	for addr, r := range m.addrs {
		l, ok := a.Lookup(addr)
		require.Equal(t, r.live, ok)
		if !ok {
			continue
		}
		require.Equal(t, r.pool, l.Pool)
		require.True(t, l.Owner.Is(r.owner))
		live[r.pool]++
		owned[r.owner.String()] = append(owned[r.owner.String()], addr)
		total++
	}
	require.Equal(t, total, a.Len())
	require.Len(t, slices.Collect(a.Leases(netip.Prefix{})), total)
	for _, o := range newPlayer(0).owners {
		var got []netip.Addr
		for _, l := range a.Owned(o) {
			got = append(got, l.Addr)
		}
		require.ElementsMatch(t, owned[o.String()], got)
	}
	subnets, reserved, now := 0, 0, time.Now()
	for p, c := range m.claims {
		switch c.class {
		case classReserved:
			reserved++
			continue
		case classSubnet:
			subnets++
		}
		u, ok := a.Usage(p)
		require.True(t, ok)
		want := Usage{Leases: live[p]}
		for _, h := range m.hosts(p) {
			if m.free(p, h, now) {
				want.Free++
			}
		}
		for addr, r := range m.addrs {
			if r.pool == p && m.resting(addr, now) {
				want.Resting++
			}
		}
		for _, d := range m.claims {
			if d.parent == p {
				want.Subnets++
			}
		}
		require.Equal(t, want, u, "%s", p)
	}
	require.Len(t, slices.Collect(a.Subnets(netip.Prefix{})), subnets)
	require.Len(t, slices.Collect(maps.Keys(maps.Collect(a.Reservations()))), reserved)
}

// TestNoAddressIsGivenTwice has 16 goroutines allocate and release with the plain
// methods, against a map of who has what, while others read.
func TestNoAddressIsGivenTwice(t *testing.T) {
	pools := []netip.Prefix{prefix("10.0.0.0/25"), prefix("fd00::/121")}
	each(t, Config{Pools: pools, Rest: time.Millisecond}, func(t *testing.T, b *bed) {
		var holders sync.Map // of addresses
		take := func(l Lease) error {
			if other, taken := holders.LoadOrStore(l.Addr, l.Owner.ID); taken {
				return fmt.Errorf("%s given to %s while %s has it", l.Addr, l.Owner.ID, other)
			}
			return nil
		}
		drop := func(l Lease) { holders.Delete(l.Addr) }
		rounds := 500
		if b.path != "" {
			rounds = 60
		}
		var players, readers sync.WaitGroup
		errs := make(chan error, 32)
		for i := range 16 {
			players.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(i), 1))
				var have []Lease
				for n := range rounds {
					o := container(fmt.Sprintf("%d-%d", i, n))
					var got []Lease
					var err error
					switch rng.IntN(3) {
					case 0:
						got, err = b.AllocateEach(o, pools...)
					case 1:
						got = make([]Lease, 1)
						got[0], err = b.Allocate(pick(rng, pools), o)
					default:
						got = make([]Lease, 1)
						got[0], err = b.AllocateAddr(pools[0].Addr().Next(), o)
					}
					switch {
					case err == nil:
						for _, l := range got {
							if err := take(l); err != nil {
								errs <- err
								return
							}
						}
						have = append(have, got...)
					case !errors.Is(err, ErrExhausted) && !errors.Is(err, ErrTaken) && !errors.Is(err, ErrResting):
						errs <- err
						return
					}
					for len(have) > 12 || len(have) > 0 && rng.IntN(3) == 0 {
						drop(have[0])
						if err := b.Release(have[0]); err != nil {
							errs <- err
							return
						}
						have = have[1:]
					}
				}
				for _, l := range have {
					drop(l)
				}
				if err := b.Release(have...); err != nil {
					errs <- err
				}
			})
		}
		for range 2 {
			readers.Go(func() {
				for range 50 {
					for l := range b.Leases(pools[0]) {
						b.Lookup(l.Addr)
						b.Owned(l.Owner)
					}
					b.Usage(pools[1])
					b.Len()
				}
			})
		}
		players.Wait()
		readers.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		require.Zero(t, b.Len(), "none leaked")
	})
}
