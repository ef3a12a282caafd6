package ipam

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/internal/testchild"
)

func init() { helpers["churn"] = churn }

var killPools = []netip.Prefix{prefix("10.0.0.0/27"), prefix("fd00::/123")}

const (
	churners = 6
	perChurn = 6 // owners of one churner
)

// churn allocates and releases on six goroutines, says on its output what it is
// about to do and what was done, and kills itself within a write.
func churn(args []string) error {
	seed, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return err
	}
	a, err := Open(args[0], Config{Pools: killPools})
	if err != nil {
		return err
	}
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(seed, 5))
	left := 1 + rng.IntN(60)
	hook(a.file.DB, func(next writeAt, b []byte, off int64) (int, error) {
		if left--; left > 0 {
			return next(b, off)
		}
		if _, err := next(b[:rng.IntN(len(b)+1)], off); err != nil {
			return 0, err
		}
		err := self.Kill()
		<-make(chan struct{}) // until it takes effect
		return 0, err
	})
	var wg sync.WaitGroup
	for i := range churners {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			for {
				o := container(fmt.Sprintf("%d-%d", i, rng.IntN(perChurn)))
				if have := a.Owned(o); len(have) > 0 {
					fmt.Printf("release %s\n", o.ID)
					err := a.Release(have...)
					fmt.Printf("released %s %v\n", o.ID, err)
					continue
				}
				fmt.Printf("allocate %s\n", o.ID)
				leases, err := a.AllocateEach(o, killPools...)
				if err != nil {
					fmt.Printf("refused %s %v\n", o.ID, err)
					continue
				}
				fmt.Printf("allocated %s %s %s\n", o.ID, leases[0].Addr, leases[1].Addr)
			}
		})
	}
	wg.Wait()
	return errors.New("not killed")
}

// TestNothingIsLostWhenItIsKilled kills a process at a write again and again, and
// opens the file it worked on: what it was told is done is done, what it was not
// told is done or not done, and nothing else is there.
func TestNothingIsLostWhenItIsKilled(t *testing.T) {
	kills := 60
	if testing.Short() {
		kills = 10
	}
	path := newPath(t)
	state := make(map[string]string) // owner to both addresses
	for seed := range kills {
		told, open := runChurn(t, path, seed, state)

		a, err := Open(path, Config{})
		require.NoError(t, err, "kill %d", seed)
		require.NoError(t, sound(a), "kill %d", seed)
		found := make(map[string]string)
		for l := range a.Leases(netip.Prefix{}) {
			found[l.Owner.ID] = strings.TrimSpace(found[l.Owner.ID] + " " + l.Addr.String())
		}
		require.NoError(t, a.Close())
		for id, unsure := range open {
			switch is := found[id]; {
			case unsure == "release" && is != "":
				require.Equal(t, told[id], is, "kill %d: %s was being released", seed, id)
			case unsure == "allocate" && is != "":
				require.Len(t, strings.Fields(is), 2, "kill %d: %s was being allocated both", seed, id)
			}
			delete(told, id)
			if found[id] != "" {
				told[id] = found[id]
			}
		}
		require.Equal(t, told, found, "kill %d", seed)
		state = found
	}
}

// runChurn runs churn to its end and returns what it was told it has, and the
// operations it was not told the end of.
func runChurn(t *testing.T, path string, seed int, state map[string]string) (told, open map[string]string) {
	t.Helper()
	cmd := testchild.Command(t, "churn", path, strconv.Itoa(seed))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	told, open = maps.Clone(state), make(map[string]string)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		word := strings.SplitN(lines.Text(), " ", 3)
		require.GreaterOrEqual(t, len(word), 2, lines.Text())
		switch what, id := word[0], word[1]; what {
		case "allocate", "release":
			open[id] = what
		case "allocated":
			delete(open, id)
			told[id] = word[2]
		case "released":
			require.Equal(t, "<nil>", word[2])
			delete(open, id)
			delete(told, id)
		default:
			t.Fatalf("kill %d: %s", seed, lines.Text())
		}
	}
	require.NoError(t, lines.Err())
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	require.Equal(t, -1, exit.ExitCode(), "it was killed, and did not exit")
	return told, open
}
