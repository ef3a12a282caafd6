package state

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/boltfile"
)

func TestEverythingIsThereAfterARestart(t *testing.T) {
	dir, want := newDir(t), sample(t)
	requireFull(t, reflect.ValueOf(want.Node), "Node")
	s := open(t, dir)
	require.Equal(t, State{}, load(t, s), "a new folder is empty")
	update(t, s, func(tx *Tx) { putAll(tx, want) })
	require.Equal(t, want, load(t, s))
	require.NoError(t, s.Close())

	s = open(t, dir)
	require.Equal(t, want, load(t, s))
	update(t, s, func(tx *Tx) { require.Equal(t, want.Node, tx.Node()) })
}

// requireFull checks that a value and all in it have been set, so that a new field
// is not left out of the sample.
func requireFull(t *testing.T, v reflect.Value, path string) {
	t.Helper()
	require.False(t, v.IsZero(), "%s is not in the sample", path)
	switch v.Kind() {
	case reflect.Pointer:
		requireFull(t, v.Elem(), path)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				requireFull(t, v.Field(i), path+"."+f.Name)
			}
		}
	}
}

func TestWhatIsPutAgainIsReplacedAndWhatIsDeletedIsGone(t *testing.T) {
	s, st := open(t, newDir(t)), sample(t)
	update(t, s, func(tx *Tx) { putAll(tx, st) })
	st.Services[1].Bridge = "other"
	st.Peers[1].Endpoint = "other:1"
	st.Ports[0].TargetPort = 1
	update(t, s, func(tx *Tx) {
		tx.PutService(st.Services[1])
		tx.PutPeer(st.Peers[1])
		tx.PutPort(st.Ports[0])
	})
	require.Equal(t, st, load(t, s))

	update(t, s, func(tx *Tx) {
		tx.DeleteService("db")
		tx.DeletePeer("", "A")
		tx.DeleteAttachment("a")
		tx.DeleteRecord(st.Records[0])
		tx.DeletePort(wire.TCP, netip.Addr{}, 443)
		for range 2 { // what is not there
			tx.DeleteService("nobody")
			tx.DeletePeer("web", "A")
			tx.DeletePort(wire.TCP, netip.Addr{}, 53)
			tx.DeleteAttachment("a")
		}
	})
	st.Services, st.Peers, st.Attachments, st.Records, st.Ports = st.Services[1:], st.Peers[1:], st.Attachments[1:], st.Records[1:], st.Ports[1:]
	require.Equal(t, st, load(t, s))

	update(t, s, func(tx *Tx) { // and both in one: the last counts
		tx.DeleteService("web")
		tx.PutService(st.Services[0])
		tx.PutRecord(Record{"x", addr("::1")})
		tx.DeleteRecord(Record{"x", addr("::1")})
	})
	require.Equal(t, st, load(t, s))
	dir := s.dir
	require.NoError(t, s.Close())
	require.Equal(t, st, load(t, open(t, dir)))
}

func TestAnUpdateThatFailsChangesNothing(t *testing.T) {
	s, st := open(t, newDir(t)), sample(t)
	update(t, s, func(tx *Tx) { putAll(tx, st) })
	mine := errors.New("mine")
	long := strings.Repeat("x", maxKeyPart+1)
	for name, test := range map[string]struct {
		fn   func(tx *Tx) error
		want string
	}{
		"the function fails":             {func(*Tx) error { return mine }, "mine"},
		"a service without a name":       {func(tx *Tx) error { tx.PutService(Service{}); return nil }, "it has no name"},
		"an attachment without an id":    {func(tx *Tx) error { tx.DeleteAttachment(""); return nil }, "it has no name"},
		"a name with a zero byte":        {func(tx *Tx) error { tx.PutService(Service{Name: "a\x00b"}); return nil }, "zero byte"},
		"a service of a peer with one":   {func(tx *Tx) error { tx.DeletePeer("a\x00b", "k"); return nil }, "zero byte"},
		"a name that is not UTF-8":       {func(tx *Tx) error { tx.PutRecord(Record{Name: "\xff"}); return nil }, "UTF-8"},
		"a name that is too long":        {func(tx *Tx) error { tx.PutService(Service{Name: long}); return nil }, "513 bytes, and 512"},
		"an entry that is too large":     {func(tx *Tx) error { tx.SetNode(Node{DNSDomain: strings.Repeat("x", maxValue)}); return nil }, "1048576 are allowed"},
		"the first of two errors counts": {func(tx *Tx) error { tx.PutService(Service{}); return mine }, "it has no name"},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.Update(func(tx *Tx) error {
				tx.SetNode(Node{ID: 5})
				tx.DeleteService("web")
				err := test.fn(tx)
				tx.DeleteService("db")
				return err
			})
			require.ErrorContains(t, err, test.want)
			require.Equal(t, st, load(t, s))
		})
	}
	require.PanicsWithValue(t, "mine", func() {
		_ = s.Update(func(tx *Tx) error { tx.SetNode(Node{ID: 5}); panic("mine") })
	})
	update(t, s, func(tx *Tx) { require.Equal(t, st.Node, tx.Node()) })
	require.Equal(t, st, load(t, s))
}

func TestTheNodeIsTheCallersOwn(t *testing.T) {
	s, st := open(t, newDir(t)), sample(t)
	update(t, s, func(tx *Tx) { tx.SetNode(st.Node) })
	update(t, s, func(tx *Tx) {
		n := tx.Node()
		n.Sysctls["x"], n.Global.Port = "y", 1
		require.Equal(t, st.Node, tx.Node())
		tx.SetNode(n)
		require.Equal(t, n, tx.Node())
		n.Global.Port = 2
		require.EqualValues(t, 1, tx.Node().Global.Port)
	})
	require.EqualValues(t, 1, load(t, s).Node.Global.Port)
}

func TestSeveralOwnersChangeTheirPartsOfTheNodeAtOnce(t *testing.T) {
	s := open(t, newDir(t))
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for j := range 4 {
				err := s.Update(func(tx *Tx) error {
					n := tx.Node()
					n.ID++
					if n.Sysctls == nil {
						n.Sysctls = make(map[string]string)
					}
					n.Sysctls[fmt.Sprintf("%d-%d", i, j)] = "v"
					tx.SetNode(n)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n := load(t, s).Node
	require.EqualValues(t, 128, n.ID)
	require.Len(t, n.Sysctls, 128)
}

func TestUpdatesThatComeWhileAnotherIsWrittenShareOneWrite(t *testing.T) {
	s := open(t, newDir(t))
	before := s.file.LastCommit()
	s.writer.Lock() // somebody writes
	const n = 64
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := s.Update(func(tx *Tx) error { tx.PutService(Service{Name: fmt.Sprint(i)}); return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.forming != nil && len(s.forming.changes) == n
	}, 30*time.Second, time.Millisecond)
	require.Empty(t, load(t, s).Services, "nothing is there before it is written")
	s.writer.Unlock()
	wg.Wait()
	require.Len(t, load(t, s).Services, n)
	require.Equal(t, before+1, s.file.LastCommit())
}

func TestAWriteThatFailsChangesNothing(t *testing.T) {
	s, st := open(t, newDir(t)), sample(t)
	update(t, s, func(tx *Tx) { putAll(tx, st) })
	mine := errors.New("mine")
	unhook := hook(s.file.DB, func(writeAt, []byte, int64) (int, error) { return 0, mine })
	err := s.Update(func(tx *Tx) error { tx.SetNode(Node{ID: 7}); return nil })
	require.ErrorIs(t, err, mine)
	require.ErrorContains(t, err, "nothing was changed")
	require.Equal(t, st, load(t, s))
	unhook()
	update(t, s, func(tx *Tx) { require.Equal(t, st.Node, tx.Node()); tx.DeleteService("web") })
	st.Services = st.Services[:1]
	require.Equal(t, st, load(t, s))
	require.NoError(t, s.Close())
	require.Equal(t, st, load(t, open(t, s.dir)))
}

// The last write of a commit is that of its meta page. When the sync after it
// fails, nobody knows what the disk has.
func TestAfterAWriteThatMayBeThereNothingIsWrittenAnyMore(t *testing.T) {
	s := open(t, newDir(t))
	mine := errors.New("mine")
	unhook := hook(s.file.DB, func(next writeAt, b []byte, off int64) (int, error) {
		n, err := next(b, off)
		if off < 2*4096 {
			err = mine
		}
		return n, err
	})
	for range 2 {
		err := s.Update(func(tx *Tx) error { tx.SetNode(Node{ID: 7}); return nil })
		require.ErrorIs(t, err, mine)
		require.ErrorContains(t, err, "shows at the next start")
	}
	unhook()
	require.ErrorIs(t, s.Update(func(tx *Tx) error { tx.SetNode(Node{ID: 8}); return nil }), mine)
	require.NoError(t, s.Close())
	require.EqualValues(t, 7, load(t, open(t, s.dir)).Node.ID)
}

func TestNobodyTakesAPanicWhileWritingForSuccess(t *testing.T) {
	s := open(t, newDir(t))
	require.NoError(t, s.file.DB.Update(func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte(services.name)) }))
	s.writer.Lock() // so that both are of one group
	errs := make(chan error, 2)
	for i := range cap(errs) {
		go func() {
			defer func() {
				if p := recover(); p != nil {
					errs <- fmt.Errorf("it came up to who called: %v", p)
				}
			}()
			errs <- s.Update(func(tx *Tx) error { tx.PutService(Service{Name: fmt.Sprint(i)}); return nil })
		}()
	}
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.forming != nil && len(s.forming.changes) == cap(errs)
	}, 30*time.Second, time.Millisecond)
	s.writer.Unlock()
	for range cap(errs) {
		require.ErrorContains(t, <-errs, "shows at the next start")
	}
	require.Error(t, s.Update(func(tx *Tx) error { tx.PutRecord(Record{Name: "a"}); return nil }))
	require.NoError(t, s.Close())
}

func TestAClosedStoreSaysSo(t *testing.T) {
	s := open(t, newDir(t))
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Update(func(*Tx) error { t.Error("called"); return nil }), net.ErrClosed)
	_, err := s.Load()
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = s.NodeKey()
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestCloseWaitsForUpdates(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir)
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for i := range 20 {
		wg.Go(func() {
			for j := 0; ; j++ {
				err := s.Update(func(tx *Tx) error { tx.PutService(Service{Name: fmt.Sprint(i, " ", j)}); return nil })
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				done++
				mu.Unlock()
			}
		})
	}
	require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return done > 50 }, 30*time.Second, time.Millisecond)
	require.NoError(t, s.Close())
	wg.Wait()
	require.Len(t, load(t, open(t, dir)).Services, done)
}

func TestTheFilesArePrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := open(t, dir)
	_, err := s.NodeKey()
	require.NoError(t, err)
	update(t, s, func(tx *Tx) { tx.SetNode(Node{ID: 1}) })
	for path, want := range map[string]fs.FileMode{
		filepath.Dir(dir): 0o700, dir: 0o700,
		filepath.Join(dir, fileState): 0o600, filepath.Join(dir, fileLock): 0o600, filepath.Join(dir, fileKey): 0o600,
	} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, want, info.Mode().Perm(), path)
	}
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 3)
}

// edit changes a closed state file with bbolt.
func edit(t *testing.T, dir string, fn func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(dir, fileState), 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(fn))
	require.NoError(t, db.Close())
}

func TestAFileOfALaterVersionIsLeftAlone(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir)
	update(t, s, func(tx *Tx) { putAll(tx, sample(t)) })
	require.NoError(t, s.Close())
	edit(t, dir, func(tx *bolt.Tx) error {
		about := tx.Bucket([]byte(format.About))
		b, err := tx.CreateBucket([]byte("new"))
		if err == nil {
			_, err = b.CreateBucket([]byte("in it another"))
		}
		return errors.Join(err, about.Put(boltfile.KeySchema, []byte{0, 0, 0, 2}), tx.DeleteBucket([]byte(peers.name)))
	})
	before, err := os.ReadFile(filepath.Join(dir, fileState))
	require.NoError(t, err)
	for range 2 {
		_, err = Open(dir)
		var newer *SchemaError
		require.ErrorAs(t, err, &newer)
		require.Equal(t, SchemaError{filepath.Join(dir, fileState), 2, 1}, *newer)
		require.ErrorContains(t, err, "use the later version")
	}
	after, err := os.ReadFile(filepath.Join(dir, fileState))
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func TestADamagedFileIsSetAside(t *testing.T) {
	for name, test := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   string
	}{
		"it is empty": {func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, fileState), 0))
		}, "0 bytes are too short"},
		"it was cut": {func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, fileState), 3*4096))
		}, "too short"},
		"it is something else": {func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, fileState), make([]byte, 1<<16), 0o600))
		}, "neither meta page is whole"},
		"an entry was changed": {func(t *testing.T, dir string) {
			edit(t, dir, func(tx *bolt.Tx) error {
				return tx.Bucket([]byte(services.name)).Put([]byte("db"), []byte(`{"name":"db"}`))
			})
		}, "not those that were written"},
		"an entry is gone": {func(t *testing.T, dir string) {
			edit(t, dir, func(tx *bolt.Tx) error { return tx.Bucket([]byte(peers.name)).Delete([]byte("A\x00db")) })
		}, "not those that were written"},
		"an entry is no JSON": {func(t *testing.T, dir string) {
			edit(t, dir, func(tx *bolt.Tx) error { return tx.Bucket([]byte(services.name)).Put([]byte("db"), []byte(`{`)) })
		}, `table services, key "db"`},
		"an entry is under another key": {func(t *testing.T, dir string) {
			edit(t, dir, func(tx *bolt.Tx) error {
				return tx.Bucket([]byte(services.name)).Put([]byte("dc"), []byte(`{"name":"db"}`))
			})
		}, "the entry has another key"},
		"a table nobody knows": {func(t *testing.T, dir string) {
			edit(t, dir, func(tx *bolt.Tx) error {
				b, err := tx.CreateBucket([]byte("new"))
				return errors.Join(err, b.Put([]byte("k"), []byte("v")))
			})
		}, `there is no table "new"`},
		"the schema is gone": {func(t *testing.T, dir string) {
			edit(t, dir, func(tx *bolt.Tx) error { return tx.Bucket([]byte(format.About)).Delete(boltfile.KeySchema) })
		}, "schema"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			s := open(t, dir)
			key, err := s.NodeKey()
			require.NoError(t, err)
			update(t, s, func(tx *Tx) { putAll(tx, sample(t)) })
			require.NoError(t, s.Close())
			test.damage(t, dir)
			bad, err := os.ReadFile(filepath.Join(dir, fileState))
			require.NoError(t, err)

			_, err = Open(dir)
			var damaged *DamagedError
			require.ErrorAs(t, err, &damaged)
			require.ErrorContains(t, err, test.want)
			require.Equal(t, filepath.Join(dir, fileState), damaged.Path)
			kept, err := os.ReadFile(damaged.Aside)
			require.NoError(t, err)
			require.Equal(t, bad, kept)

			s = open(t, dir)
			require.Equal(t, State{}, load(t, s), "the next start begins with nothing")
			again, err := s.NodeKey()
			require.NoError(t, err)
			require.True(t, key.Equal(again), "but the key")
		})
	}
}
