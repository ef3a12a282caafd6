package ipam

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTwoOwnersGetTheTwoLowestAddresses(t *testing.T) {
	each(t, Config{Pools: []netip.Prefix{cluster}}, func(t *testing.T, b *bed) {
		first, err := b.Allocate(cluster, node("a"))
		require.NoError(t, err)
		second, err := b.Allocate(cluster, node("b"))
		require.NoError(t, err)
		require.Equal(t, "10.200.0.1/16", first.Prefix().String())
		require.Equal(t, "10.200.0.2/16", second.Prefix().String())
		require.Equal(t, 2, b.Len())
	})
}

func TestHostsGetTheAddressesTheRFCsAllow(t *testing.T) {
	for name, test := range map[string]struct {
		pool        string
		first, last string
		hosts       int
		refused     []string
	}{
		"of a /29 all but network and broadcast (RFC 1122)": {"192.0.2.8/29", "192.0.2.9", "192.0.2.14", 6, []string{"192.0.2.8", "192.0.2.15"}},
		"of a /30 the two in the middle (RFC 1122)":         {"192.0.2.0/30", "192.0.2.1", "192.0.2.2", 2, []string{"192.0.2.0", "192.0.2.3"}},
		"of a /31 both (RFC 3021)":                          {"192.0.2.0/31", "192.0.2.0", "192.0.2.1", 2, nil},
		"of a /32 the only one":                             {"192.0.2.7/32", "192.0.2.7", "192.0.2.7", 1, nil},
		"of a /125 all but the anycast address (RFC 4291)":  {"2001:db8::8/125", "2001:db8::9", "2001:db8::f", 7, []string{"2001:db8::8"}},
		"of a /126 all but the anycast address (RFC 4291)":  {"2001:db8::/126", "2001:db8::1", "2001:db8::3", 3, []string{"2001:db8::"}},
		"of a /127 both (RFC 6164)":                         {"2001:db8::/127", "2001:db8::", "2001:db8::1", 2, nil},
		"of a /128 the only one":                            {"2001:db8::7/128", "2001:db8::7", "2001:db8::7", 1, nil},
		"at the end of IPv4 the arithmetic does not wrap":   {"255.255.255.248/29", "255.255.255.249", "255.255.255.254", 6, []string{"255.255.255.255"}},
		"at the end of IPv6 the arithmetic does not wrap":   {"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8/125", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff9", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 7, nil},
		"of a /127 at the end of IPv6 both (RFC 6164)":      {"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 2, nil},
	} {
		t.Run(name, func(t *testing.T) {
			pool := prefix(test.pool)
			first, last := Usable(pool)
			require.Equal(t, test.first, first.String())
			require.Equal(t, test.last, last.String())
			each(t, Config{Pools: []netip.Prefix{pool}}, func(t *testing.T, b *bed) {
				usage, ok := b.Usage(pool)
				require.True(t, ok)
				require.Equal(t, Usage{Free: uint64(test.hosts)}, usage)
				want := first
				for i := range test.hosts {
					l, err := b.Allocate(pool, container(string(rune('a'+i))))
					require.NoError(t, err)
					require.Equal(t, want, l.Addr)
					want = want.Next()
				}
				_, err := b.Allocate(pool, container("late"))
				require.ErrorIs(t, err, ErrExhausted)
				for _, s := range test.refused {
					_, err := b.AllocateAddr(addr(s), container("late"))
					require.ErrorIs(t, err, ErrNotUsable)
				}
			})
		})
	}
}

func TestPoolsOfAnySize(t *testing.T) {
	for _, s := range []string{"10.0.0.0/8", "0.0.0.0/0", "fd00::/64", "fd00::/8", "::/0", "fd00::/65"} {
		t.Run(s, func(t *testing.T) {
			pool := prefix(s)
			each(t, Config{Pools: []netip.Prefix{pool}}, func(t *testing.T, b *bed) {
				first, last := Usable(pool)
				top, err := b.AllocateAddr(last, container("top"))
				require.NoError(t, err)
				low, err := b.Allocate(pool, container("low"))
				require.NoError(t, err)
				require.Equal(t, first, low.Addr)
				require.Equal(t, pool, top.Pool)
				require.Less(t, len(b.pools[pool].free.blocks), 2)
			})
		})
	}
}

func TestAnOwnerKeepsItsAddress(t *testing.T) {
	eachInTime(t, Config{Pools: []netip.Prefix{cluster}}, func(t *testing.T, b *bed) {
		first, err := b.Allocate(cluster, container("a"))
		require.NoError(t, err)

		again, err := b.Allocate(cluster, container("a"))
		require.NoError(t, err)
		require.Equal(t, first, again, "while it has it")

		require.NoError(t, b.Release(again))
		b.restart()
		again, err = b.Allocate(cluster, container("a"))
		require.NoError(t, err)
		require.Equal(t, first.Addr, again.Addr, "while it rests")

		require.NoError(t, b.Release(again))
		time.Sleep(2 * time.Minute)
		_, err = b.AllocateAddr(addr("10.200.0.9"), container("b")) // the rest is over
		require.NoError(t, err)
		b.restart()
		again, err = b.Allocate(cluster, container("a"))
		require.NoError(t, err)
		require.Equal(t, first.Addr, again.Addr, "after its rest")

		require.NoError(t, b.Release(again))
		time.Sleep(2 * time.Minute)
		other, err := b.Allocate(cluster, container("c"))
		require.NoError(t, err)
		require.Equal(t, first.Addr, other.Addr)
		again, err = b.Allocate(cluster, container("a"))
		require.NoError(t, err)
		require.NotEqual(t, first.Addr, again.Addr, "unless another has it")
	})
}

func TestAReleasedAddressRests(t *testing.T) {
	small := prefix("192.0.2.0/29") // six hosts
	eachInTime(t, Config{Pools: []netip.Prefix{small}}, func(t *testing.T, b *bed) {
		a, err := b.Allocate(small, container("a"))
		require.NoError(t, err)
		require.NoError(t, b.Release(a))

		next, err := b.Allocate(small, container("b"))
		require.NoError(t, err)
		require.Equal(t, addr("192.0.2.2"), next.Addr, "another is given meanwhile")
		_, err = b.AllocateAddr(a.Addr, container("b"))
		require.ErrorIs(t, err, ErrResting)
		usage, _ := b.Usage(small)
		require.Equal(t, Usage{Leases: 1, Resting: 1, Free: 4}, usage)

		time.Sleep(59 * time.Second)
		b.restart() // the rest goes on over a restart
		_, err = b.AllocateAddr(a.Addr, container("b"))
		require.ErrorIs(t, err, ErrResting)

		time.Sleep(time.Second)
		usage, _ = b.Usage(small)
		require.Equal(t, Usage{Leases: 1, Free: 5}, usage)
		c, err := b.Allocate(small, container("c"))
		require.NoError(t, err)
		require.Equal(t, a.Addr, c.Addr, "the lowest again after a minute")
	})
}

func TestRestEndsEarlyOnlyWhenNothingElseIsLeft(t *testing.T) {
	small := prefix("192.0.2.0/29")
	eachInTime(t, Config{Pools: []netip.Prefix{small}}, func(t *testing.T, b *bed) {
		var leases []Lease
		for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
			l, err := b.Allocate(small, container(id))
			require.NoError(t, err)
			leases = append(leases, l)
		}
		for _, i := range []int{4, 1, 3} {
			require.NoError(t, b.Release(leases[i]))
			time.Sleep(time.Second)
		}
		l, err := b.AllocateAddr(leases[3].Addr, container("g"))
		require.NoError(t, err, "one asked for by name")
		require.Equal(t, leases[3].Addr, l.Addr)
		for _, want := range []int{4, 1} {
			l, err := b.Allocate(small, container("h"+leases[want].Owner.ID))
			require.NoError(t, err)
			require.Equal(t, leases[want].Addr, l.Addr, "the longest rested first")
		}
		_, err = b.Allocate(small, container("late"))
		require.ErrorIs(t, err, ErrExhausted)
	})
}

func TestRestCanBeSetOrLeftOut(t *testing.T) {
	for _, test := range []struct{ rest, wait time.Duration }{{-1, 0}, {time.Second, time.Second}, {time.Hour, time.Hour}} {
		eachInTime(t, Config{Pools: []netip.Prefix{cluster}, Rest: test.rest}, func(t *testing.T, b *bed) {
			l, err := b.Allocate(cluster, container("a"))
			require.NoError(t, err)
			require.NoError(t, b.Release(l))
			if test.wait > 0 {
				time.Sleep(test.wait - 1)
				other, err := b.Allocate(cluster, container("b"))
				require.NoError(t, err)
				require.NotEqual(t, l.Addr, other.Addr)
			}
			time.Sleep(time.Nanosecond)
			other, err := b.Allocate(cluster, container("c"))
			require.NoError(t, err)
			require.Equal(t, l.Addr, other.Addr)
		})
	}
}

func TestDualStackIsAllOrNothing(t *testing.T) {
	tiny := prefix("fd00:200::/127")
	each(t, Config{Pools: []netip.Prefix{cluster, tiny}}, func(t *testing.T, b *bed) {
		for _, id := range []string{"a", "b"} {
			both, err := b.AllocateEach(container(id), cluster, tiny)
			require.NoError(t, err)
			require.Len(t, both, 2)
			require.Equal(t, both, b.Owned(container(id)))
		}
		leases, err := b.AllocateEach(container("c"), cluster, tiny)
		require.ErrorIs(t, err, ErrExhausted)
		require.Nil(t, leases)
		require.Empty(t, b.Owned(container("c")))
		require.Equal(t, 4, b.Len())
	})
}

func TestABatchIsAllOrNothing(t *testing.T) {
	each(t, Config{Pools: []netip.Prefix{prefix("192.0.2.0/28")}}, func(t *testing.T, b *bed) {
		pool := prefix("192.0.2.0/28") // 14 hosts
		var leases []Lease
		require.NoError(t, b.Update(func(tx *Tx) error {
			for i := range 10 {
				l, err := tx.Allocate(pool, container(string(rune('a'+i))))
				if err != nil {
					return err
				}
				leases = append(leases, l)
			}
			return nil
		}))
		before := contents(b.Authority)
		err := b.Update(func(tx *Tx) error {
			for i := range 10 {
				if _, err := tx.Allocate(pool, container(string(rune('A'+i)))); err != nil {
					return err
				}
			}
			return nil
		})
		require.ErrorIs(t, err, ErrExhausted)
		requireSame(t, before, contents(b.Authority))

		bad := append(slices.Clone(leases), leases[0])
		require.ErrorIs(t, b.Release(bad...), ErrNotHeld)
		requireSame(t, before, contents(b.Authority))
		requireSound(t, b.Authority)

		require.NoError(t, b.Release(leases...))
		require.Zero(t, b.Len())
	})
}

func TestAPanicInATransactionUndoesIt(t *testing.T) {
	each(t, Config{Pools: []netip.Prefix{cluster}}, func(t *testing.T, b *bed) {
		require.PanicsWithValue(t, "oops", func() {
			_ = b.Update(func(tx *Tx) error {
				_, err := tx.Allocate(cluster, node("a"))
				require.NoError(t, err)
				panic("oops")
			})
		})
		require.Zero(t, b.Len())
		_, err := b.Allocate(cluster, node("b"))
		require.NoError(t, err)
	})
}

func TestWhatATransactionSees(t *testing.T) {
	each(t, Config{Pools: []netip.Prefix{cluster}}, func(t *testing.T, b *bed) {
		require.NoError(t, b.Update(func(tx *Tx) error {
			l, err := tx.AllocateAddr(addr("10.200.0.7"), node("a"))
			require.NoError(t, err)
			seen, ok := tx.Lookup(addr("::ffff:10.200.0.7"))
			require.True(t, ok)
			require.Equal(t, l, seen)
			require.Equal(t, []Lease{l}, tx.Owned(node("a")))
			return tx.Release(l)
		}))
		_, ok := b.Lookup(addr("10.200.0.7"))
		require.False(t, ok)
	})
}

func TestErrorsSayWhatIsInTheWay(t *testing.T) {
	small := prefix("192.0.2.0/30")
	each(t, Config{Pools: []netip.Prefix{small, prefix("10.0.0.0/8")}}, func(t *testing.T, b *bed) {
		one, err := b.Allocate(small, node("a"))
		require.NoError(t, err)
		_, err = b.Allocate(small, node("b"))
		require.NoError(t, err)
		require.NoError(t, b.Reserve(prefix("10.0.0.0/24"), Owner{Kind: "policy", ID: "lab"}))
		sub, err := b.Assign(SubnetRequest{Pool: prefix("10.0.0.0/8"), Bits: 16, Owner: node("n"), Prefix: prefix("10.9.0.0/16")})
		require.NoError(t, err)
		_, err = b.Allocate(sub.Prefix, container("x"))
		require.NoError(t, err)

		allocate := func(p string, o Owner) error { _, err := b.Allocate(prefix(p), o); return err }
		allocateAddr := func(a netip.Addr, o Owner) error { _, err := b.AllocateAddr(a, o); return err }
		assign := func(r SubnetRequest) error { _, err := b.Assign(r); return err }
		for name, test := range map[string]struct {
			err  error
			is   error
			text string
		}{
			"an exhausted pool": {allocate("192.0.2.0/30", node("c")), ErrExhausted,
				`ipam: allocate from 192.0.2.0/30 for node "c": no free address or subnet is left`},
			"an unknown pool": {allocate("198.51.100.0/24", node("c")), ErrNoPool,
				`ipam: allocate from 198.51.100.0/24 for node "c": no such pool`},
			"an address somebody has": {allocateAddr(one.Addr, node("c")), ErrTaken,
				`ipam: allocate 192.0.2.1 for node "c": already taken by node "a"`},
			"an address outside": {allocateAddr(addr("198.51.100.1"), node("c")), ErrOutOfRange,
				`ipam: allocate 198.51.100.1 for node "c": outside every pool`},
			"a broadcast address": {allocateAddr(addr("192.0.2.3"), node("c")), ErrNotUsable,
				`ipam: allocate 192.0.2.3 for node "c": not usable by a host: it is the network, broadcast or anycast address of 192.0.2.0/30`},
			"a reserved address": {allocateAddr(addr("10.0.0.8"), node("c")), ErrTaken,
				`ipam: allocate 10.0.0.8 for node "c": already taken: 10.0.0.0/24 is reserved by policy "lab"`},
			"an address with a zone": {allocateAddr(addr("fe80::1%eth0"), node("c")), ErrInvalid,
				`ipam: allocate fe80::1 for node "c": invalid: an address without a zone is wanted, not "fe80::1%eth0"`},
			"no owner": {allocate("10.0.0.0/8", Owner{Kind: "node"}), ErrInvalid,
				`ipam: allocate from 10.0.0.0/8 for node "": invalid: an owner's id is 1 to 1024 bytes of UTF-8, not ""`},
			"a lease of another": {b.Release(Lease{Addr: one.Addr, Owner: node("c")}), ErrNotHeld,
				`ipam: release 192.0.2.1 for node "c": not held by this owner but by node "a"`},
			"a lease nobody has": {b.Release(Lease{Addr: addr("10.0.1.1"), Owner: node("c")}), ErrNotHeld,
				`ipam: release 10.0.1.1 for node "c": not held by this owner`},
			"a pool that overlaps": {b.AddPool(prefix("10.128.0.0/9")), ErrOverlap,
				`ipam: add pool 10.128.0.0/9: overlaps what is there: 10.0.0.0/8 holds it`},
			"a pool around another": {b.AddPool(prefix("192.0.0.0/16")), ErrOverlap,
				`ipam: add pool 192.0.0.0/16: overlaps what is there: 192.0.2.0/30 is in it`},
			"a misaligned pool": {b.AddPool(prefix("172.16.0.1/12")), ErrInvalid,
				`ipam: add pool 172.16.0.1/12: invalid: misaligned, 172.16.0.0/12 would hold it`},
			"a pool in use": {b.RemovePool(small), ErrInUse,
				`ipam: remove pool 192.0.2.0/30: still in use: addresses held in it: 2, subnets: 0; release them first`},
			"a subnet in use": {b.Unassign(sub), ErrInUse,
				`ipam: unassign 10.9.0.0/16 for node "n": still in use: addresses held in it: 1, subnets: 0; release them first`},
			"a subnet somebody has": {assign(SubnetRequest{Pool: prefix("10.0.0.0/8"), Owner: node("m"), Prefix: prefix("10.9.9.0/24")}), ErrOverlap,
				`ipam: assign 10.9.9.0/24 for node "m": overlaps what is there: 10.9.0.0/16 is taken by node "n"`},
			"another subnet of the same": {assign(SubnetRequest{Pool: prefix("10.0.0.0/8"), Owner: node("n"), Bits: 24}), ErrTaken,
				`ipam: assign a subnet of 10.0.0.0/8 for node "n": already taken: it has 10.9.0.0/16 there`},
			"a misaligned subnet": {assign(SubnetRequest{Pool: prefix("10.0.0.0/8"), Owner: node("m"), Prefix: prefix("10.8.0.1/24")}), ErrInvalid,
				`ipam: assign 10.8.0.1/24 for node "m": invalid: misaligned, 10.8.0.0/24 would hold it`},
			"a subnet elsewhere": {assign(SubnetRequest{Pool: prefix("10.0.0.0/8"), Owner: node("m"), Prefix: prefix("11.0.0.0/24")}), ErrOutOfRange,
				`ipam: assign 11.0.0.0/24 for node "m": outside every pool: it is not in 10.0.0.0/8`},
			"a subnet as large as its pool": {assign(SubnetRequest{Pool: small, Owner: node("m"), Bits: 30}), ErrInvalid,
				`ipam: assign a subnet of 192.0.2.0/30 for node "m": invalid: a subnet of 192.0.2.0/30 has 31 to 32 bits, not 30`},
			"a reservation over a lease": {b.Reserve(prefix("192.0.2.0/31"), node("m")), ErrOverlap,
				`ipam: reserve 192.0.2.0/31 for node "m": overlaps what is there: 192.0.2.1/32 is taken by node "a"`},
		} {
			require.ErrorIs(t, test.err, test.is, name)
			require.EqualError(t, test.err, test.text, name)
		}

		var typed *Error
		require.ErrorAs(t, allocateAddr(one.Addr, node("c")), &typed)
		require.Equal(t, node("a"), typed.Holder)
	})
}

func TestEveryMethodOfAClosedAuthoritySaysSo(t *testing.T) {
	each(t, Config{Pools: []netip.Prefix{cluster}}, func(t *testing.T, b *bed) {
		l, err := b.Allocate(cluster, node("a"))
		require.NoError(t, err)
		require.NoError(t, b.Close())
		require.NoError(t, b.Close())
		for name, call := range map[string]func() error{
			"Allocate":     func() error { _, err := b.Allocate(cluster, node("a")); return err },
			"AllocateAddr": func() error { _, err := b.AllocateAddr(l.Addr, node("a")); return err },
			"AllocateEach": func() error { _, err := b.AllocateEach(node("a"), cluster); return err },
			"Release":      func() error { return b.Release(l) },
			"Assign":       func() error { _, err := b.Assign(SubnetRequest{Pool: cluster, Owner: node("a")}); return err },
			"Unassign":     func() error { return b.Unassign(Subnet{}) },
			"AddPool":      func() error { return b.AddPool(cluster6) },
			"RemovePool":   func() error { return b.RemovePool(cluster) },
			"Reserve":      func() error { return b.Reserve(cluster, node("a")) },
			"Unreserve":    func() error { return b.Unreserve(cluster, node("a")) },
			"Restore":      func() error { return b.Restore(Snapshot{}) },
			"Reconcile":    func() error { _, err := b.Reconcile(Alive{}); return err },
			"Update":       func() error { return b.Update(func(*Tx) error { panic("not reached") }) },
		} {
			require.ErrorIs(t, call(), net.ErrClosed, name)
		}
		if b.path != "" {
			b.Authority, err = Open(b.path, b.config)
			require.NoError(t, err)
		}
	})
}

func TestOwnersAreBounded(t *testing.T) {
	long := string(make([]byte, 2000))
	many := make(map[string]string)
	for i := range maxLabels + 1 {
		many[string(rune('a'+i))] = ""
	}
	a, err := NewMemory(Config{Pools: []netip.Prefix{cluster}})
	require.NoError(t, err)
	for name, o := range map[string]Owner{
		"no kind":              {ID: "a"},
		"no id":                {Kind: "a"},
		"a long kind":          {Kind: long, ID: "a"},
		"a long id":            {Kind: "a", ID: long},
		"a long boot id":       {Kind: "a", ID: "a", Boot: long},
		"an id of no text":     {Kind: "a", ID: "\xff"},
		"too many labels":      {Kind: "a", ID: "a", Labels: many},
		"a long label":         {Kind: "a", ID: "a", Labels: map[string]string{"a": long}},
		"a label of no text":   {Kind: "a", ID: "a", Labels: map[string]string{"a": "\xff"}},
		"a kind of no text":    {Kind: "\xff", ID: "a"},
		"a boot id of no text": {Kind: "a", ID: "a", Boot: "\xff"},
	} {
		_, err := a.Allocate(cluster, o)
		require.ErrorIs(t, err, ErrInvalid, name)
		_, err = a.AllocateAddr(addr("10.200.0.1"), o)
		require.ErrorIs(t, err, ErrInvalid, name)
		require.ErrorIs(t, a.Reserve(prefix("10.200.0.0/24"), o), ErrInvalid, name)
		_, err = a.Assign(SubnetRequest{Pool: cluster, Owner: o})
		require.ErrorIs(t, err, ErrInvalid, name)
		_, err = a.Reconcile(Alive{Holders: []Holder{{Owner: o}}})
		require.ErrorIs(t, err, ErrInvalid, name)
	}
	require.Zero(t, a.Len())
}

func TestWhatIsKnownOfAnOwnerIsKeptAndBroughtUpToDate(t *testing.T) {
	each(t, Config{Pools: []netip.Prefix{cluster}}, func(t *testing.T, b *bed) {
		o := Owner{Kind: "container", ID: "c1", Boot: "b1", NetNS: 4026532001, Labels: map[string]string{"pod": "x", "": "y"}}
		l, err := b.Allocate(cluster, o)
		require.NoError(t, err)
		require.Equal(t, o, l.Owner)
		o.Labels["pod"] = "mine to change"
		l.Owner.Labels["pod"] = "mine too"
		b.restart()
		kept, ok := b.Lookup(l.Addr)
		require.True(t, ok)
		require.Equal(t, map[string]string{"pod": "x", "": "y"}, kept.Owner.Labels)

		next := Owner{Kind: "container", ID: "c1", Boot: "b2", NetNS: 7}
		again, err := b.AllocateAddr(l.Addr, next)
		require.NoError(t, err)
		require.Equal(t, next, again.Owner)
		require.Equal(t, l.Since, again.Since)
		b.restart()
		kept, _ = b.Lookup(l.Addr)
		require.Equal(t, next, kept.Owner)
	})
}

func TestLeasesAreFoundAndCountedAndIterated(t *testing.T) {
	pools := []netip.Prefix{cluster, cluster6}
	each(t, Config{Pools: pools}, func(t *testing.T, b *bed) {
		sub, err := b.Assign(SubnetRequest{Pool: cluster, Owner: node("n1")})
		require.NoError(t, err)
		for _, id := range []string{"a", "b", "c"} {
			_, err := b.AllocateEach(container(id), cluster6, cluster, sub.Prefix)
			require.NoError(t, err)
		}
		require.Equal(t, 9, b.Len())
		all := slices.Collect(b.Leases(netip.Prefix{}))
		require.Len(t, all, 9)
		require.True(t, slices.IsSortedFunc(all, func(l, m Lease) int { return l.Addr.Compare(m.Addr) }))
		require.Len(t, slices.Collect(b.Leases(cluster)), 6)
		require.Len(t, slices.Collect(b.Leases(sub.Prefix)), 3)
		for l := range b.Leases(cluster6) {
			require.NoError(t, b.Release(l)) // an iteration holds no lock
			if l.Owner.ID == "b" {
				break
			}
		}
		require.Equal(t, 7, b.Len())
		for _, l := range b.Owned(container("c")) {
			found, ok := b.Lookup(l.Addr)
			require.True(t, ok)
			require.Equal(t, l, found)
		}
		require.Equal(t, pools, b.Pools())
		usage, ok := b.Usage(cluster)
		require.True(t, ok)
		require.Equal(t, Usage{Leases: 3, Subnets: 1, Free: 1<<16 - 2 - 3 - 16}, usage)
		usage, _ = b.Usage(cluster6)
		require.Equal(t, uint64(1<<64-1), usage.Free)
		_, ok = b.Usage(prefix("192.0.2.0/24"))
		require.False(t, ok)
	})
}

func TestLeasesAreBounded(t *testing.T) {
	each(t, Config{Pools: []netip.Prefix{cluster}, MaxLeases: 2}, func(t *testing.T, b *bed) {
		for _, id := range []string{"a", "b", "a"} {
			_, err := b.Allocate(cluster, container(id))
			require.NoError(t, err)
		}
		_, err := b.Allocate(cluster, container("c"))
		require.ErrorIs(t, err, ErrExhausted)
		require.ErrorContains(t, err, "its limit of 2 leases")
	})
	_, err := NewMemory(Config{MaxLeases: -1})
	require.ErrorIs(t, err, ErrInvalid)
}

func TestMemoriesAreBounded(t *testing.T) {
	pool := prefix("fd00::/64")
	a, err := NewMemory(Config{Pools: []netip.Prefix{pool}, Rest: -1})
	require.NoError(t, err)
	const more = 100
	first := pool.Addr()
	for i := range maxRemembered + more {
		first = first.Next()
		l, err := a.AllocateAddr(first, container("one of many"))
		require.NoError(t, err, i)
		require.NoError(t, a.Release(l))
	}
	require.Equal(t, maxRemembered, a.remembered)
	require.Equal(t, maxRemembered, a.records.n)
	require.Nil(t, a.records.get(addr("fd00::1")), "the oldest went first")
	require.Nil(t, a.records.get(addr("fd00::64")))
	require.NotNil(t, a.records.get(addr("fd00::65")))
	requireSound(t, a)
}
