package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNothingIsLostWhereverItStops makes random transactions on an authority in a
// file and, for each, the files a crash could have left: one for every write, with
// that write whole, torn or missing; and, for a loss of power, with any of those
// that were not synced yet missing or torn as well. Each is opened and compared
// with the oracle: it must be what was before the transaction or what was to be
// after it, and the latter only once the last write was made.
func TestNothingIsLostWhereverItStops(t *testing.T) {
	sessions := 20
	if testing.Short() {
		sessions = 2
	}
	for seed := range sessions {
		t.Run(fmt.Sprint("session ", seed), func(t *testing.T) {
			t.Parallel()
			runs, err := crashSession(t, uint64(seed), 40)
			require.NoError(t, err)
			t.Logf("%d crashes", runs)
			require.Greater(t, runs, 200)
		})
	}
}

func crashSession(t *testing.T, seed uint64, transactions int) (runs int, err error) {
	a, err := Open(newPath(t), Config{Pools: propertyPools})
	require.NoError(t, err)
	defer a.Close()
	m := newModel(defaultRest, propertyPools...)
	p := newPlayer(1000 + seed)
	d := newDisk(t, a)
	c := crasher{rng: rand.New(rand.NewPCG(seed, 99)), t: t, dir: t.TempDir()}
	for i := range transactions {
		c.before = contents(a)
		// Some transactions are large enough for the file to grow.
		steps := 1 + p.rng.IntN(3)
		if i%10 == 9 {
			steps = 60
		}
		err := a.Update(func(tx *Tx) error {
			for range steps {
				if err := p.step(tx, m); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return c.runs, err
		}
		c.after = contents(a)
		if err := c.crashAll(d); err != nil {
			return c.runs, fmt.Errorf("transaction %d: %w", i, err)
		}
		d.settle(t)
	}
	return c.runs, nil
}

// A crasher tries the files a crash in one transaction could leave.
type crasher struct {
	t             *testing.T
	rng           *rand.Rand
	dir           string
	before, after map[string]string
	runs          int
}

func (c *crasher) crashAll(d *disk) error {
	if len(d.writes) == 0 {
		return nil
	}
	last := len(d.writes) - 1
	if !isMeta(d.writes[last].off) {
		return errors.New("the last write is not that of the meta page")
	}
	for i, w := range d.writes {
		if isMeta(w.off) != (i == last) {
			return errors.New("a meta page is written before the last")
		}
		whole := func(n int) []byte {
			image := append([]byte(nil), d.image...)
			for _, w := range d.writes[:n] {
				image = w.apply(image, 0, len(w.data))
			}
			return image
		}
		// The process ends before the write, or within it.
		if err := c.try(whole(i), false); err != nil {
			return fmt.Errorf("before write %d: %w", i, err)
		}
		cut := c.rng.IntN(len(w.data))
		if err := c.try(w.apply(whole(i), 0, cut), i == last); err != nil {
			return fmt.Errorf("after %d bytes of write %d: %w", cut, i, err)
		}
		// The power fails: before the meta page nothing is on the disk for
		// certain, and with it all but itself.
		var image []byte
		if i == last {
			image = whole(i)
			image = c.tear(image, w)
		} else {
			image = append([]byte(nil), d.image...)
			for _, w := range d.writes[:i+1] {
				image = c.tear(image, w)
			}
		}
		if err := c.try(image, i == last); err != nil {
			return fmt.Errorf("power lost in write %d: %w", i, err)
		}
	}
	image := append([]byte(nil), d.image...)
	for _, w := range d.writes {
		image = w.apply(image, 0, len(w.data))
	}
	return c.open(image, func(got map[string]string) error {
		return errorOf(difference(c.after, got))
	})
}

// tear puts any sectors of a write into an image.
func (c *crasher) tear(image []byte, w write) []byte {
	const sector = 512
	chance := c.rng.IntN(3) // 0: none, 2: all
	for lo := 0; lo < len(w.data); lo += sector {
		if chance == 2 || chance == 1 && c.rng.IntN(2) == 0 {
			image = w.apply(image, lo, min(lo+sector, len(w.data)))
		}
	}
	return image
}

// try opens what a crash left. It must be the state before, or, if that may be,
// the one after.
func (c *crasher) try(image []byte, maybeAfter bool) error {
	return c.open(image, func(got map[string]string) error {
		diff := difference(c.before, got)
		if diff != "" && maybeAfter && difference(c.after, got) == "" {
			return nil
		}
		return errorOf(diff)
	})
}

func errorOf(diff string) error {
	if diff == "" {
		return nil
	}
	return errors.New(diff)
}

// open opens an image, compares what is in it, and now and then goes on with it.
func (c *crasher) open(image []byte, compare func(map[string]string) error) error {
	c.runs++
	path := put(c.t, c.dir, image)
	a, err := Open(path, Config{})
	if err != nil {
		return err
	}
	defer a.Close()
	got := contents(a)
	if err := errors.Join(compare(got), sound(a)); err != nil {
		return err
	}
	if c.rng.IntN(16) > 0 {
		return nil
	}
	a.file.DB.NoSync, a.file.DB.NoGrowSync = true, true
	if _, err := a.Allocate(pick(c.rng, a.Pools()), container("after the crash")); err != nil && !errors.Is(err, ErrExhausted) {
		return err
	}
	want := contents(a)
	if err := a.Close(); err != nil {
		return err
	}
	if a, err = Open(path, Config{}); err != nil {
		return err
	}
	defer a.Close()
	return errorOf(difference(want, contents(a)))
}
