package ipam

import (
	"fmt"
	"hash/fnv"
	"math"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// vectors reads a table of testdata.
func vectors(t *testing.T, name string) [][]string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	require.NoError(t, err)
	var rows [][]string
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "#") {
			rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
		}
	}
	require.NotEmpty(t, rows)
	return rows
}

func TestHashesAreThoseOfTheVectors(t *testing.T) {
	for _, v := range vectors(t, "fnv1a.tsv") {
		want, err := strconv.ParseUint(v[1], 16, 64)
		require.NoError(t, err)
		h := fnv.New64a()
		h.Write([]byte(v[0]))
		require.Equal(t, want, h.Sum64())
		if id, on, ok := strings.Cut(v[0], "\x1f"); ok {
			require.Equal(t, want, slotHash(service(id), on))
		} else {
			require.Equal(t, want, slotHash(node(id), ""))
		}
	}
	require.NotEqual(t, slotHash(service("ab"), "c"), slotHash(service("a"), "bc"))
}

func TestSubnetsAreThoseOfTheVectors(t *testing.T) {
	for _, v := range vectors(t, "slots.tsv") {
		pool, id, on := prefix(v[0]), v[2], v[3]
		bits, err := strconv.Atoi(v[1])
		require.NoError(t, err)
		slot, err := strconv.ParseUint(v[4], 10, 64)
		require.NoError(t, err)
		r := SubnetRequest{Pool: pool, Bits: bits, Owner: service(id), Node: on}
		if id == "" {
			r.Owner, r.Node = node(on), ""
		}
		a, err := NewMemory(Config{Pools: []netip.Prefix{pool}})
		require.NoError(t, err)
		s := newSlots(a.pools[pool], bits, nil)
		require.Equal(t, slot, slotHash(r.Owner, r.Node)%s.count)
		sub, err := a.Assign(r)
		require.NoError(t, err)
		require.Equal(t, v[5], sub.Prefix.String())
		again, err := a.Assign(r)
		require.NoError(t, err)
		require.Equal(t, sub, again)
	}
}

func TestSubnetsHaveTheUsualSizeUnlessToldOtherwise(t *testing.T) {
	each(t, Config{Pools: []netip.Prefix{cluster, cluster6}}, func(t *testing.T, b *bed) {
		four, err := b.Assign(SubnetRequest{Pool: cluster, Owner: node("a")})
		require.NoError(t, err)
		require.Equal(t, 28, four.Prefix.Bits())
		six, err := b.Assign(SubnetRequest{Pool: cluster6, Owner: node("a")})
		require.NoError(t, err)
		require.Equal(t, 120, six.Prefix.Bits())
		found, ok := b.Subnet(cluster6, node("a"), "")
		require.True(t, ok)
		require.Equal(t, six, found)
		_, ok = b.Subnet(cluster, node("b"), "")
		require.False(t, ok)
		found, ok = b.SubnetOf(six.Prefix.Addr().Next())
		require.True(t, ok)
		require.Equal(t, six, found)
		_, ok = b.SubnetOf(addr("192.0.2.1"))
		require.False(t, ok)
		_, ok = b.SubnetOf(netip.Addr{})
		require.False(t, ok)
	})
}

// TestSlotsBeyondA64BitCount has 2⁷² slots: the hash counts modulo 2⁶⁴-1.
func TestSlotsBeyondA64BitCount(t *testing.T) {
	each(t, Config{Pools: []netip.Prefix{cluster6}}, func(t *testing.T, b *bed) {
		sub, err := b.Assign(SubnetRequest{Pool: cluster6, Owner: node("node-a")})
		require.NoError(t, err)
		// 0xe6971cc22078cb53 slots of 2⁸ addresses from fd00:200:: on.
		require.Equal(t, "fd00:200:0:e6:971c:c220:78cb:5300/120", sub.Prefix.String())
	})
	p := newPool(prefix("::/0"))
	s := newSlots(p, 128, nil)
	require.Equal(t, uint64(math.MaxUint64), s.count)
	i, ok := s.probe(math.MaxUint64 - 1)
	require.True(t, ok)
	require.Equal(t, uint64(math.MaxUint64-1), i)
	p.free.remove(s.span(i).lo, s.span(i).hi)
	i, ok = s.probe(math.MaxUint64 - 1)
	require.True(t, ok)
	require.Zero(t, i, "around the end")
	i, ok = s.probe(math.MaxUint64)
	require.True(t, ok)
	require.Zero(t, i, "the hash 2⁶⁴-1 is slot 0")
}

func TestAFullClusterHasNoMoreSlots(t *testing.T) {
	pool := prefix("10.200.0.0/28")
	each(t, Config{Pools: []netip.Prefix{pool}}, func(t *testing.T, b *bed) {
		taken := make(map[netip.Prefix]bool)
		for i := range 4 {
			s, err := b.Assign(SubnetRequest{Pool: pool, Bits: 30, Owner: node(fmt.Sprint("n", i))})
			require.NoError(t, err)
			require.False(t, taken[s.Prefix])
			taken[s.Prefix] = true
		}
		_, err := b.Assign(SubnetRequest{Pool: pool, Bits: 30, Owner: node("late")})
		require.ErrorIs(t, err, ErrExhausted)
	})
}

func TestProbingPassesOverWhatIsTakenReservedAndExcluded(t *testing.T) {
	// node-a starts at slot 2899, 10.200.181.48/28.
	each(t, Config{Pools: []netip.Prefix{cluster}}, func(t *testing.T, b *bed) {
		_, err := b.AllocateAddr(addr("10.200.181.50"), container("a host"))
		require.NoError(t, err)
		require.NoError(t, b.Reserve(prefix("10.200.181.79/32"), Owner{Kind: "policy", ID: "p"}))
		_, err = b.Assign(SubnetRequest{Pool: cluster, Owner: service("web"), Node: "1", Prefix: prefix("10.200.181.80/29")})
		require.NoError(t, err)
		s, err := b.Assign(SubnetRequest{Pool: cluster, Owner: node("node-a"), Exclude: []netip.Prefix{
			prefix("10.200.181.96/27"), prefix("10.200.181.97/32"), prefix("fd00::/8"), prefix("10.200.181.140/30"), prefix("10.200.181.128/32"),
		}})
		require.NoError(t, err)
		require.Equal(t, "10.200.181.144/28", s.Prefix.String())
	})
	each(t, Config{Pools: []netip.Prefix{cluster}}, func(t *testing.T, b *bed) {
		s, err := b.Assign(SubnetRequest{Pool: cluster, Owner: node("node-a"), Exclude: []netip.Prefix{prefix("10.200.128.0/17")}})
		require.NoError(t, err)
		require.Equal(t, "10.200.0.0/28", s.Prefix.String(), "around the end")
		_, err = b.Assign(SubnetRequest{Pool: cluster, Owner: node("node-b"), Exclude: []netip.Prefix{prefix("10.0.0.0/8")}})
		require.ErrorIs(t, err, ErrExhausted)
	})
}

func TestSlicesAndServiceSubnetsShareOneRegistry(t *testing.T) {
	pool := prefix("10.200.0.0/24")
	each(t, Config{Pools: []netip.Prefix{pool}}, func(t *testing.T, b *bed) {
		taken := make(map[netip.Prefix]bool)
		for i := range 8 {
			s, err := b.Assign(SubnetRequest{Pool: pool, Owner: node(strconv.Itoa(i))})
			require.NoError(t, err)
			require.False(t, taken[s.Prefix])
			taken[s.Prefix] = true
			s, err = b.Assign(SubnetRequest{Pool: pool, Owner: service("web"), Node: strconv.Itoa(i)})
			require.NoError(t, err)
			require.False(t, taken[s.Prefix])
			taken[s.Prefix] = true
		}
		_, err := b.Allocate(pool, container("no room"))
		require.ErrorIs(t, err, ErrExhausted)
		require.Len(t, slices.Collect(b.Subnets(pool)), 16)
	})
}

func TestHostsOfThePoolKeepOutOfItsSubnets(t *testing.T) {
	pool := prefix("10.200.0.0/24")
	each(t, Config{Pools: []netip.Prefix{pool}}, func(t *testing.T, b *bed) {
		s, err := b.Assign(SubnetRequest{Pool: pool, Owner: node("a"), Prefix: prefix("10.200.0.0/28")})
		require.NoError(t, err)
		host, err := b.Allocate(pool, container("flat"))
		require.NoError(t, err)
		require.Equal(t, "10.200.0.16", host.Addr.String())
		inner, err := b.Allocate(s.Prefix, container("inner"))
		require.NoError(t, err)
		require.Equal(t, "10.200.0.1/28", inner.Prefix().String())
		byName, err := b.AllocateAddr(addr("10.200.0.9"), container("by name"))
		require.NoError(t, err)
		require.Equal(t, s.Prefix, byName.Pool)
		_, err = b.AllocateAddr(addr("10.200.0.15"), container("broadcast of the subnet"))
		require.ErrorIs(t, err, ErrNotUsable)

		sub, err := b.Assign(SubnetRequest{Pool: s.Prefix, Bits: 30, Owner: service("x"), Node: "a"})
		require.NoError(t, err)
		require.Equal(t, s.Prefix, sub.Pool)
		require.ErrorIs(t, b.Unassign(s), ErrInUse)
		require.NoError(t, b.Unassign(sub))
		require.NoError(t, b.Release(inner, byName))
		require.NoError(t, b.Unassign(s))
		require.ErrorIs(t, b.Unassign(s), ErrNotHeld)
		low, err := b.Allocate(pool, container("low"))
		require.NoError(t, err)
		require.Equal(t, "10.200.0.1", low.Addr.String(), "what was the subnet's is the pool's again")
	})
}

func TestAddressesAtRestGiveWayToSubnets(t *testing.T) {
	pool := prefix("10.200.0.0/28")
	eachInTime(t, Config{Pools: []netip.Prefix{pool}}, func(t *testing.T, b *bed) {
		var leases []Lease
		for _, s := range []string{"10.200.0.1", "10.200.0.5", "10.200.0.9", "10.200.0.13"} {
			l, err := b.AllocateAddr(addr(s), container(s))
			require.NoError(t, err)
			leases = append(leases, l)
		}
		require.NoError(t, b.Release(leases[2]))
		time.Sleep(time.Second)
		require.NoError(t, b.Release(leases[1]))

		_, err := b.Assign(SubnetRequest{Pool: pool, Bits: 30, Owner: node("late"), Exclude: []netip.Prefix{prefix("10.200.0.0/29"), prefix("10.200.0.8/29")}})
		require.ErrorIs(t, err, ErrExhausted)
		usage, _ := b.Usage(pool)
		require.Equal(t, 2, usage.Resting, "none was woken in vain")

		s, err := b.Assign(SubnetRequest{Pool: pool, Bits: 30, Owner: node("a")})
		require.NoError(t, err)
		require.Equal(t, "10.200.0.8/30", s.Prefix.String(), "where one has rested longest")
		s, err = b.Assign(SubnetRequest{Pool: pool, Owner: node("b"), Prefix: prefix("10.200.0.4/30")})
		require.NoError(t, err, "and where it was told")
		_, err = b.Assign(SubnetRequest{Pool: pool, Owner: node("c"), Prefix: prefix("10.200.0.0/30")})
		require.ErrorIs(t, err, ErrOverlap)
		b.restart()
		again, err := b.Allocate(pool, container("10.200.0.5"))
		require.NoError(t, err)
		require.NotEqual(t, "10.200.0.5", again.Addr.String(), "it is the subnet's now")
		require.True(t, s.Prefix.Contains(addr("10.200.0.5")))
	})
}

func TestReservationsStay(t *testing.T) {
	pool := prefix("10.200.0.0/24")
	gateway := Owner{Kind: "gateway", ID: "gw", Labels: map[string]string{"a": "b"}}
	each(t, Config{Pools: []netip.Prefix{pool}}, func(t *testing.T, b *bed) {
		require.NoError(t, b.Reserve(prefix("10.200.0.0/30"), gateway))
		require.NoError(t, b.Reserve(prefix("10.200.0.0/30"), gateway))
		require.NoError(t, b.Reserve(prefix("10.200.0.4/32"), gateway))
		gateway.Labels = nil
		require.NoError(t, b.Reserve(prefix("10.200.0.4/32"), gateway))
		b.restart()
		l, err := b.Allocate(pool, container("a"))
		require.NoError(t, err)
		require.Equal(t, "10.200.0.5", l.Addr.String())
		require.ErrorIs(t, b.Reserve(prefix("10.200.0.0/31"), node("n")), ErrOverlap)
		require.ErrorIs(t, b.Reserve(prefix("10.200.0.0/30"), node("n")), ErrOverlap)
		require.ErrorIs(t, b.Reserve(pool, node("n")), ErrOverlap)
		require.ErrorIs(t, b.Reserve(prefix("10.200.0.0/25"), node("n")), ErrOverlap)
		require.ErrorIs(t, b.Reserve(prefix("192.0.2.0/25"), node("n")), ErrOutOfRange)
		require.ErrorIs(t, b.Reserve(netip.MustParsePrefix("10.200.0.9/30"), node("n")), ErrInvalid)
		require.ErrorIs(t, b.Unreserve(prefix("10.200.0.0/30"), node("n")), ErrNotHeld)
		var reserved []netip.Prefix
		for p, o := range b.Reservations() {
			require.True(t, o.Is(gateway))
			reserved = append(reserved, p)
		}
		require.Equal(t, []netip.Prefix{prefix("10.200.0.0/30"), prefix("10.200.0.4/32")}, reserved)
		for _, p := range reserved {
			require.NoError(t, b.Unreserve(p, gateway))
		}
		l, err = b.Allocate(pool, container("b"))
		require.NoError(t, err)
		require.Equal(t, "10.200.0.1", l.Addr.String())
	})
}

func TestPoolsComeAndGo(t *testing.T) {
	each(t, Config{}, func(t *testing.T, b *bed) {
		_, err := b.Allocate(cluster, node("a"))
		require.ErrorIs(t, err, ErrNoPool)
		require.NoError(t, b.AddPool(cluster))
		require.NoError(t, b.AddPool(cluster))
		require.ErrorIs(t, b.AddPool(prefix("::ffff:10.0.0.0/104")), ErrInvalid)
		require.ErrorIs(t, b.AddPool(netip.Prefix{}), ErrInvalid)
		l, err := b.Allocate(netip.MustParsePrefix("10.200.3.4/16"), node("a"))
		require.NoError(t, err)
		require.ErrorIs(t, b.RemovePool(cluster), ErrInUse)
		require.NoError(t, b.Release(l))
		require.ErrorIs(t, b.RemovePool(prefix("10.200.0.0/17")), ErrNoPool)
		require.NoError(t, b.RemovePool(cluster))
		require.Empty(t, b.Pools())
		require.Zero(t, b.records.n, "nor is anything remembered")
	})
	_, err := NewMemory(Config{Pools: []netip.Prefix{cluster, prefix("10.0.0.0/8")}})
	require.ErrorIs(t, err, ErrOverlap)
}

func TestOnlyServicesHaveNodes(t *testing.T) {
	a, err := NewMemory(Config{Pools: []netip.Prefix{cluster}})
	require.NoError(t, err)
	for name, r := range map[string]SubnetRequest{
		"a node with a node":        {Pool: cluster, Owner: node("a"), Node: "b"},
		"a node that is no text":    {Pool: cluster, Owner: service("a"), Node: "\xff"},
		"a length of the pool's":    {Pool: cluster, Owner: node("a"), Bits: 16},
		"a length beyond addresses": {Pool: cluster, Owner: node("a"), Bits: 33},
		"two lengths":               {Pool: cluster, Owner: node("a"), Bits: 24, Prefix: prefix("10.200.0.0/28")},
	} {
		_, err := a.Assign(r)
		require.ErrorIs(t, err, ErrInvalid, name)
	}
	_, err = a.Assign(SubnetRequest{Pool: cluster6, Owner: node("a")})
	require.ErrorIs(t, err, ErrNoPool)
}
