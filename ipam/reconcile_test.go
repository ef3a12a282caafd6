package ipam

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// alive is a container of boot b with a namespace.
func alive(id string, ns uint64) Owner {
	return Owner{Kind: "container", ID: id, Boot: "b", NetNS: ns}
}

func ids(leases []Lease) (ids []string) {
	for _, l := range leases {
		ids = append(ids, l.Owner.ID)
	}
	return ids
}

func TestReconcileTellsARestartFromAReboot(t *testing.T) {
	each(t, Config{Pools: []netip.Prefix{cluster}}, func(t *testing.T, b *bed) {
		var leases []Lease
		for _, o := range []Owner{
			alive("stays", 1), alive("died", 2), alive("restarted", 3),
			{Kind: "container", ID: "before the reboot", Boot: "a", NetNS: 1},
			{Kind: "container", ID: "came back", Boot: "a", NetNS: 9},
			{Kind: "container", ID: "of no boot"},
			{Kind: "gateway", ID: "out of scope", Boot: "a"},
		} {
			l, err := b.Allocate(cluster, o)
			require.NoError(t, err)
			leases = append(leases, l)
		}
		r, err := b.Reconcile(Alive{
			Boot:    "b",
			Holders: []Holder{{Owner: alive("stays", 1)}, {Owner: alive("restarted", 33)}, {Owner: alive("came back", 44)}},
			Scope:   func(l Lease) bool { return l.Owner.Kind == "container" },
		})
		require.NoError(t, err)
		require.Equal(t, []string{"stays", "restarted", "came back"}, ids(r.Kept))
		require.Equal(t, []string{"died", "of no boot"}, ids(r.Gone))
		require.Equal(t, []string{"before the reboot"}, ids(r.Rebooted), "though its inode is another's now")
		require.Empty(t, r.Adopted)
		require.Empty(t, r.Doubts)
		require.Equal(t, 4, b.Len())

		l, ok := b.Lookup(leases[4].Addr)
		require.True(t, ok)
		require.Equal(t, alive("came back", 44), l.Owner)
		require.Equal(t, leases[4].Since, l.Since)
		_, ok = b.Lookup(leases[6].Addr)
		require.True(t, ok)
		_, err = b.AllocateAddr(leases[1].Addr, container("other"))
		require.ErrorIs(t, err, ErrResting, "what was released rests")
	})
}

func TestReconcileAdoptsWhatIsHadWithoutALease(t *testing.T) {
	eachInTime(t, Config{Pools: []netip.Prefix{cluster, cluster6}}, func(t *testing.T, b *bed) {
		dead, err := b.Allocate(cluster, alive("dead", 5))
		require.NoError(t, err)
		rested, err := b.Allocate(cluster, alive("long dead", 6))
		require.NoError(t, err)
		require.NoError(t, b.Release(rested))
		time.Sleep(time.Second)
		r, err := b.Reconcile(Alive{Boot: "b", Holders: []Holder{
			{Owner: alive("lost its lease", 1), Addrs: []netip.Addr{addr("10.200.3.4"), addr("fd00:200::5")}},
			{Owner: alive("has a dead one's", 2), Addrs: []netip.Addr{dead.Addr}},
			{Owner: alive("has one at rest", 3), Addrs: []netip.Addr{addr("::ffff:" + rested.Addr.String())}},
		}})
		require.NoError(t, err)
		require.Equal(t, []string{"dead"}, ids(r.Gone))
		require.Equal(t, []string{"lost its lease", "lost its lease", "has a dead one's", "has one at rest"}, ids(r.Adopted))
		require.Empty(t, r.Doubts)
		require.Equal(t, 4, b.Len())
		b.restart()
		l, ok := b.Lookup(dead.Addr)
		require.True(t, ok)
		require.Equal(t, alive("has a dead one's", 2), l.Owner)
	})
}

func TestReconcileReportsWhatItCannotDecide(t *testing.T) {
	each(t, Config{Pools: []netip.Prefix{cluster}}, func(t *testing.T, b *bed) {
		require.NoError(t, b.Reserve(prefix("10.200.9.0/24"), node("n")))
		first, err := b.Allocate(cluster, alive("first", 1))
		require.NoError(t, err)
		renamed, err := b.Allocate(cluster, alive("renamed", 7))
		require.NoError(t, err)
		idle, err := b.Allocate(cluster, alive("idle", 3))
		require.NoError(t, err)
		before := contents(b.Authority)
		r, err := b.Reconcile(Alive{Boot: "b", Holders: []Holder{
			{Owner: alive("first", 1), Addrs: []netip.Addr{first.Addr}},
			{Owner: alive("second", 2), Addrs: []netip.Addr{first.Addr, addr("192.0.2.1"), addr("10.200.0.0"), addr("10.200.9.9")}},
			{Owner: alive("idle", 3), Addrs: []netip.Addr{first.Addr}},
			{Owner: alive("new name", 7)},
		}})
		require.NoError(t, err)
		require.Equal(t, []string{"first"}, ids(r.Kept))
		requireSame(t, before, contents(b.Authority))
		type doubt struct {
			addr  netip.Addr
			lease string
			alive string
			err   error
		}
		var doubts []doubt
		for _, d := range r.Doubts {
			for _, is := range []error{ErrInUse, ErrNotHeld, ErrTaken, ErrOutOfRange, ErrNotUsable} {
				if errors.Is(d.Err, is) {
					doubts = append(doubts, doubt{d.Addr, d.Lease.Owner.ID, d.Alive.ID, is})
				}
			}
		}
		require.Equal(t, []doubt{
			{renamed.Addr, "renamed", "new name", ErrInUse},
			{idle.Addr, "idle", "idle", ErrNotHeld},
			{first.Addr, "first", "second", ErrTaken},
			{addr("192.0.2.1"), "", "second", ErrOutOfRange},
			{addr("10.200.0.0"), "", "second", ErrNotUsable},
			{addr("10.200.9.9"), "n", "second", ErrTaken},
			{first.Addr, "first", "idle", ErrTaken},
		}, doubts)
	})
}

func TestReconcileIsAllOrNothing(t *testing.T) {
	each(t, Config{Pools: []netip.Prefix{cluster}, MaxLeases: 2}, func(t *testing.T, b *bed) {
		_, err := b.Allocate(cluster, alive("dead", 1))
		require.NoError(t, err)
		before := contents(b.Authority)
		_, err = b.Reconcile(Alive{Boot: "b", Holders: []Holder{
			{Owner: alive("x", 2), Addrs: []netip.Addr{addr("10.200.0.5"), addr("10.200.0.6"), addr("10.200.0.7")}},
		}})
		require.ErrorIs(t, err, ErrExhausted)
		requireSame(t, before, contents(b.Authority))
	})
}
