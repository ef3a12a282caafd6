package ipam

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/overlayd/overlayd/internal/boltfile"
	"github.com/overlayd/overlayd/internal/testchild"
)

func TestTheFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "leases.db")
	a, err := Open(path, Config{})
	require.NoError(t, err)
	defer a.Close()
	for p, want := range map[string]fs.FileMode{
		path: 0o600, path + ".lock": 0o600, filepath.Dir(path): 0o700 | fs.ModeDir, filepath.Dir(filepath.Dir(path)): 0o700 | fs.ModeDir,
	} {
		info, err := os.Stat(p)
		require.NoError(t, err)
		require.Equal(t, want, info.Mode(), p)
	}
}

func TestTheSecondIsToldWhoHasTheFile(t *testing.T) {
	path := newPath(t)
	cmd := testchild.Command(t, "hold", path)
	_, err := cmd.StdinPipe() // it holds the file until this ends
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)

	var held *HeldError
	_, err = Open(path, Config{})
	require.ErrorAs(t, err, &held)
	require.Equal(t, cmd.Process.Pid, held.PID)
	require.Equal(t, filepath.Base(cmd.Path), held.Program)
	require.Equal(t, path, held.Path)
	require.False(t, held.Since.IsZero())
	require.ErrorContains(t, err, path+" is in use by "+held.Program+", process ")

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	a, err := Open(path, Config{})
	require.NoError(t, err, "the dead hold nothing")
	_, err = Open(path, Config{})
	require.ErrorAs(t, err, &held)
	require.Equal(t, os.Getpid(), held.PID)

	require.NoError(t, os.WriteFile(path+".lock", []byte("not what we wrote"), 0o600))
	_, err = Open(path, Config{})
	require.ErrorAs(t, err, &held)
	require.Zero(t, held.PID)
	require.EqualError(t, err, "ipam: "+path+" is in use by another process")
	require.NoError(t, a.Close())
}

func TestAFileOpenInAnotherToolIsHeld(t *testing.T) {
	path := newPath(t)
	a, err := Open(path, Config{})
	require.NoError(t, err)
	require.NoError(t, a.Close())
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	defer db.Close()
	var held *HeldError
	_, err = Open(path, Config{})
	require.ErrorAs(t, err, &held)
}

func TestAnUnfinishedFileIsMadeAnew(t *testing.T) {
	path := newPath(t)
	a, err := Open(path, Config{Pools: killPools})
	require.NoError(t, err)
	require.NoError(t, a.Close())
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for name, left := range map[string][]byte{"nothing yet": {}, "half of it": whole[:5000], "all but its name": whole} {
		path := newPath(t)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path+".new", left, 0o600))
		a, err := Open(path, Config{})
		require.NoError(t, err, name)
		require.Empty(t, a.Pools(), name)
		require.NoFileExists(t, path+".new", name)
		require.NoError(t, a.Close())
	}
}

// edit changes a closed file with bbolt.
func edit(t *testing.T, path string, fn func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true})
	require.NoError(t, err)
	require.NoError(t, db.Update(fn))
	require.NoError(t, db.Close())
}

func TestANewerFileIsRefusedUntouched(t *testing.T) {
	path := newPath(t)
	a, err := Open(path, Config{Pools: killPools})
	require.NoError(t, err)
	require.NoError(t, a.Close())
	edit(t, path, func(tx *bolt.Tx) error {
		if err := tx.Bucket([]byte(bucketClaims)).Put([]byte("of a form"), []byte("not known yet")); err != nil {
			return err
		}
		if _, err := tx.CreateBucket([]byte("routes")); err != nil {
			return err
		}
		return tx.Bucket([]byte(format.About)).Put(boltfile.KeySchema, binary.BigEndian.AppendUint32(nil, format.Schema+1))
	})
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)

	_, err = Open(path, Config{Pools: []netip.Prefix{cluster}})
	var newer *SchemaError
	require.ErrorAs(t, err, &newer)
	require.Equal(t, SchemaError{Path: path, Have: format.Schema + 1, Known: format.Schema}, *newer)
	require.EqualError(t, err, "ipam: "+path+" has schema 2 and this program knows only up to 1; use a newer version")
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
	now, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, info.ModTime(), now.ModTime())
	require.ElementsMatch(t, []string{"leases.db", "leases.db.lock"}, names(t, filepath.Dir(path)))
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestADamagedFileIsSetAside(t *testing.T) {
	path := newPath(t)
	a, err := Open(path, Config{Pools: killPools})
	require.NoError(t, err)
	l, err := a.Allocate(killPools[0], container("a"))
	require.NoError(t, err)
	_, err = a.Assign(SubnetRequest{Pool: killPools[0], Bits: 30, Owner: node("n")})
	require.NoError(t, err)
	require.NoError(t, a.Close())
	whole, err := os.ReadFile(path)
	require.NoError(t, err)

	bytesChanged := func(change func(b []byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, change(append([]byte(nil), whole...)), 0o600))
		}
	}
	edited := func(fn func(tx *bolt.Tx) error) func(*testing.T, string) {
		return func(t *testing.T, path string) { edit(t, path, fn) }
	}
	lease := appendRecord(nil, (&record{since: 1, owner: container("x")}).version())
	for name, test := range map[string]struct {
		damage func(t *testing.T, path string)
		says   string
	}{
		"it is empty":            {bytesChanged(func([]byte) []byte { return nil }), "0 bytes are too short"},
		"it was cut":             {bytesChanged(func(b []byte) []byte { return b[:len(b)/2] }), "do not fit"},
		"it is something else":   {bytesChanged(func(b []byte) []byte { clear(b); return b }), "neither meta page is whole"},
		"its pages are zeros":    {bytesChanged(func(b []byte) []byte { clear(b[2*boltfile.PageSize:]); return b }), "says it is page 0"},
		"a lease is missing":     {edited(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketLeases)).Delete(addrKey(l.Addr)) }), "entries are not those that were written"},
		"a lease too many":       {edited(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketLeases)).Put(addrKey(l.Addr.Next()), lease) }), "entries are not those that were written"},
		"a lease is another":     {edited(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketLeases)).Put(addrKey(l.Addr), lease) }), "entries are not those that were written"},
		"a lease is no record":   {edited(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketLeases)).Put(addrKey(l.Addr), []byte("x")) }), "malformed record"},
		"a lease has no address": {edited(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketLeases)).Put([]byte("x"), lease) }), "malformed record"},
		"a lease is in no pool":  {edited(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketLeases)).Put(addrKey(addr("192.0.2.1")), lease) }), "where none may be"},
		"a lease is a broadcast": {edited(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketLeases)).Put(addrKey(addr("10.0.0.31")), lease) }), "where none may be"},
		"a claim is of no class": {edited(func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(bucketClaims)).Put(prefixKey(cluster), make([]byte, 9))
		}), "malformed record"},
		"a claim is misaligned": {edited(func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(bucketClaims)).Put(prefixKey(netip.MustParsePrefix("10.1.0.1/16")), make([]byte, 9))
		}), "malformed record"},
		"a pool is in a pool": {edited(func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(bucketClaims)).Put(prefixKey(prefix("10.0.0.0/29")), appendClaim(nil, &claim{class: classRoot}))
		}), "where none may be"},
		"a subnet is in no pool": {edited(func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(bucketClaims)).Put(prefixKey(cluster), appendClaim(nil, &claim{class: classSubnet, owner: node("x")}))
		}), "where none may be"},
		"an owner has two subnets": {edited(func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(bucketClaims)).Put(prefixKey(prefix("10.0.0.28/31")), appendClaim(nil, &claim{class: classSubnet, owner: node("n")}))
		}), "where none may be"},
		"it has no schema": {edited(func(tx *bolt.Tx) error { return tx.Bucket([]byte(format.About)).Delete(boltfile.KeySchema) }), "it has no schema"},
		"it has no sum":    {edited(func(tx *bolt.Tx) error { return tx.Bucket([]byte(format.About)).Delete(boltfile.KeySum) }), "entries are not those that were written"},
		"it has an unknown bucket": {edited(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucket([]byte("more"))
			return errors.Join(err, b.Put([]byte("a"), []byte("b")))
		}), `unknown bucket "more"`},
		"a bucket has a bucket": {edited(func(tx *bolt.Tx) error {
			_, err := tx.Bucket([]byte(bucketLeases)).CreateBucket([]byte("more"))
			return err
		}), `bucket "leases" has a bucket in it`},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "leases.db")
			require.NoError(t, os.WriteFile(path, whole, 0o600))
			test.damage(t, path)
			before, err := os.ReadFile(path)
			require.NoError(t, err)

			for range 2 { // the second finds the name of the first taken
				require.NoError(t, os.WriteFile(path, before, 0o600))
				_, err = Open(path, Config{Pools: killPools})
				var damaged *DamagedError
				require.ErrorAs(t, err, &damaged)
				require.ErrorContains(t, err, "ipam: "+path+" is damaged (")
				require.ErrorContains(t, err, test.says)
				require.ErrorContains(t, err, "it was set aside as "+damaged.Aside)
				require.Equal(t, path, damaged.Path)
				require.True(t, strings.HasPrefix(damaged.Aside, path+".damaged-"), damaged.Aside)
				aside, err := os.ReadFile(damaged.Aside)
				require.NoError(t, err)
				require.Equal(t, before, aside)
				require.NoFileExists(t, path)
			}
			require.Len(t, names(t, filepath.Dir(path)), 3)
			a, err := Open(path, Config{Pools: killPools})
			require.NoError(t, err, "the next begins anew")
			require.Zero(t, a.Len())
			require.NoError(t, a.Close())
		})
	}
}

func TestWhatIsNoFileIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(dir, Config{})
	require.ErrorIs(t, err, ErrInvalid)
	require.DirExists(t, dir)
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = Open(filepath.Join(file, "leases.db"), Config{})
	require.Error(t, err)
	_, err = Open(filepath.Join(dir, "leases.db"), Config{Pools: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}})
	require.ErrorIs(t, err, ErrInvalid)
	a, err := Open(filepath.Join(dir, "leases.db"), Config{})
	require.NoError(t, err, "the refused one let go of it")
	require.NoError(t, a.Close())
}

// TestAFailedWriteChangesNothing fails each write of a transaction in turn.
func TestAFailedWriteChangesNothing(t *testing.T) {
	full := &fs.PathError{Op: "write", Path: "leases.db", Err: syscall.ENOSPC}
	path := newPath(t)
	a, err := Open(path, Config{Pools: propertyPools})
	require.NoError(t, err)
	fail, short := 0, false // the write to fail, counted down; 0: none
	hook(a.file.DB, func(next writeAt, b []byte, off int64) (int, error) {
		if fail > 0 {
			if fail--; fail == 0 {
				n := 0
				if short {
					n, _ = next(b[:40], off) // of a meta page too few to count
				}
				return n, full
			}
		}
		return next(b, off)
	})
	m := newModel(defaultRest, propertyPools...)
	p := newPlayer(7)
	failures := 0
	for i := range 60 {
		before, model, rng := contents(a), m.clone(), *p.rng
		fail, short = 1+i%6, i%2 == 0
		update := func() error {
			return a.Update(func(tx *Tx) error {
				for range 1 + i%3 {
					if err := p.step(tx, m); err != nil {
						return err
					}
				}
				return nil
			})
		}
		armed := fail
		err := update()
		if fail > 0 || err == nil { // there were not as many writes, or none
			fail = 0
			require.NoError(t, err)
			continue
		}
		failures++
		require.ErrorIs(t, err, syscall.ENOSPC, armed)
		require.ErrorContains(t, err, "ipam: write "+path)
		require.ErrorContains(t, err, "nothing was changed")
		requireSame(t, before, contents(a))
		requireSound(t, a)
		m = model
		*p.rng = rng
		if i%2 == 0 {
			require.NoError(t, update(), "the next goes well")
		}
	}
	require.Greater(t, failures, 10)
	require.NoError(t, sameState(a, m))
	want := contents(a)
	require.NoError(t, a.Close())
	a, err = Open(path, Config{})
	require.NoError(t, err)
	requireSame(t, want, contents(a))
	require.NoError(t, a.Close())
}

// TestReadersSeeWhatIsOnTheDisk stops a commit before its first write and looks,
// and lets it go on or fail. Transactions that come meanwhile go together.
func TestNobodyTakesAPanicWhileWritingForSuccess(t *testing.T) {
	a, err := Open(newPath(t), Config{})
	require.NoError(t, err)
	pool := prefix("10.200.0.0/24")
	require.NoError(t, a.AddPool(pool))
	require.NoError(t, a.file.DB.Update(func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte(bucketLeases)) }))
	a.writer <- struct{}{} // so that both are of one group
	errs := make(chan error, 2)
	for i := range cap(errs) {
		go func() {
			defer func() {
				if p := recover(); p != nil {
					errs <- fmt.Errorf("it came up to who called: %v", p)
				}
			}()
			_, err := a.Allocate(pool, container(fmt.Sprint(i)))
			errs <- err
		}()
	}
	require.Eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.forming != nil && len(a.forming.changes) == cap(errs)
	}, 30*time.Second, time.Millisecond)
	<-a.writer
	for range cap(errs) {
		require.ErrorContains(t, <-errs, "shows when it is opened again")
	}
	require.Zero(t, a.Len())
	require.NoError(t, a.Close())
}

func TestReadersSeeWhatIsOnTheDisk(t *testing.T) {
	for name, failure := range map[string]error{"and the write succeeds": nil, "and the write fails": errors.New("bad disk")} {
		path := newPath(t)
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, err := Open(path, Config{Pools: []netip.Prefix{cluster}})
				require.NoError(t, err)
				old, err := a.Allocate(cluster, container("old"))
				require.NoError(t, err)
				sub, err := a.Assign(SubnetRequest{Pool: cluster, Owner: node("old")})
				require.NoError(t, err)
				require.NoError(t, a.Reserve(prefix("10.200.0.64/32"), node("old")))
				before, snapshot := contents(a), a.Snapshot(KindNode, cluster, 28)
				usage, _ := a.Usage(cluster)

				gate, commits := make(chan struct{}), 0
				hook(a.file.DB, func(next writeAt, b []byte, off int64) (int, error) {
					<-gate
					if failure != nil {
						return 0, failure
					}
					if isMeta(off) {
						commits++
					}
					return next(b, off)
				})
				var wg sync.WaitGroup
				results := make(chan error, 100)
				do := func(fn func() error) { wg.Go(func() { results <- fn() }) }
				do(func() error { return a.Release(old) })
				synctest.Wait()
				for _, id := range []string{"b", "c", "d", "e"} {
					do(func() error { _, err := a.Allocate(cluster, container(id)); return err })
					do(func() error { _, err := a.Assign(SubnetRequest{Pool: cluster, Owner: node(id)}); return err })
				}
				do(func() error { _, err := a.Allocate(cluster, container("old")); return err })
				do(func() error { return a.Unassign(sub) })
				do(func() error { return a.AddPool(cluster6) })
				do(func() error { return a.Unreserve(prefix("10.200.0.64/32"), node("old")) })
				synctest.Wait()
				// One that changes nothing rests on those before it, too.
				do(func() error { _, err := a.Allocate(cluster, container("e")); return err })
				synctest.Wait()

				for l := range a.Leases(netip.Prefix{}) {
					require.Equal(t, old, l)
				}
				require.Equal(t, 1, a.Len())
				l, ok := a.Lookup(old.Addr)
				require.True(t, ok)
				require.Equal(t, old, l)
				require.Equal(t, []Lease{old}, a.Owned(container("old")))
				require.Empty(t, a.Owned(container("b")))
				_, ok = a.Lookup(old.Addr.Next())
				require.False(t, ok)
				require.Equal(t, snapshot, a.Snapshot(KindNode, cluster, 28))
				require.Equal(t, []netip.Prefix{cluster}, a.Pools())
				s, ok := a.SubnetOf(sub.Prefix.Addr())
				require.True(t, ok)
				require.Equal(t, sub, s)
				s, ok = a.Subnet(cluster, node("old"), "")
				require.True(t, ok)
				require.Equal(t, sub, s)
				_, ok = a.Subnet(cluster, node("b"), "")
				require.False(t, ok)
				for p, o := range a.Reservations() {
					require.Equal(t, prefix("10.200.0.64/32"), p)
					require.Equal(t, node("old"), o)
				}
				u, ok := a.Usage(cluster)
				require.True(t, ok)
				require.Equal(t, usage.Leases, u.Leases)
				_, ok = a.Usage(cluster6)
				require.False(t, ok)

				close(gate)
				wg.Wait()
				close(results)
				for err := range results {
					if failure == nil {
						require.NoError(t, err)
					} else {
						require.ErrorIs(t, err, failure)
					}
				}
				requireSound(t, a)
				if failure != nil {
					requireSame(t, before, contents(a))
				} else {
					require.Equal(t, 2, commits, "the first alone, the others together")
					require.Equal(t, 5, a.Len())
				}
				want := contents(a)
				require.NoError(t, a.Close())
				a, err = Open(path, Config{})
				require.NoError(t, err)
				requireSame(t, want, contents(a))
				require.NoError(t, a.Close())
			})
		})
	}
}

func TestCloseWaitsForWhatIsUnderWay(t *testing.T) {
	path := newPath(t)
	synctest.Test(t, func(t *testing.T) {
		a, err := Open(path, Config{Pools: []netip.Prefix{cluster}})
		require.NoError(t, err)
		gate := make(chan struct{})
		hook(a.file.DB, func(next writeAt, b []byte, off int64) (int, error) {
			<-gate
			return next(b, off)
		})
		var wg sync.WaitGroup
		errs := make([]error, 3)
		for i, id := range []string{"a", "b", "c"} {
			wg.Go(func() { _, errs[i] = a.Allocate(cluster, container(id)) })
			synctest.Wait()
		}
		closed := make(chan error)
		go func() { closed <- a.Close() }()
		synctest.Wait()
		select {
		case <-closed:
			t.Fatal("Close did not wait")
		default:
		}
		close(gate)
		require.NoError(t, <-closed)
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		a, err = Open(path, Config{})
		require.NoError(t, err)
		require.Equal(t, 3, a.Len())
		require.NoError(t, a.Close())
	})
}

// TestAFileOfManyPages fills, empties and fills a file again, in and out of order.
func TestAFileOfManyPages(t *testing.T) {
	path := newPath(t)
	c := Config{Pools: []netip.Prefix{cluster}, Rest: -1}
	a, err := Open(path, c)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(8, 8))
	leases := fill(t, a, cluster, 8_000)
	for round := range 3 {
		rng.Shuffle(len(leases), func(i, j int) { leases[i], leases[j] = leases[j], leases[i] })
		half := len(leases) / 2
		require.NoError(t, a.Release(leases[:half]...))
		want := contents(a)
		require.NoError(t, a.Close())
		a, err = Open(path, c)
		require.NoError(t, err)
		requireSame(t, want, contents(a))
		for _, l := range leases[:half] {
			_, ok := a.Lookup(l.Addr)
			require.False(t, ok)
		}
		leases = leases[half:]
		require.Equal(t, len(leases), a.Len())
		for i := range 50 {
			l, err := a.Allocate(cluster, container(fmt.Sprintf("%d-%d", round, i)))
			require.NoError(t, err)
			leases = append(leases, l)
		}
	}
	requireSound(t, a)
	require.NoError(t, a.Close())
}
