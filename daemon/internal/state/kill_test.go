package state

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/internal/testchild"
)

func init() { helpers["churn"] = churn }

const churners = 8

// churn puts and deletes entries on several goroutines, always a service with its
// record and peer, and says what it is about to do and what was done, until it is
// killed.
func churn(args []string) error {
	s, err := Open(args[0])
	if err != nil {
		return err
	}
	if _, err := s.NodeKey(); err != nil {
		return err
	}
	seed, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return err
	}
	fmt.Println("ready -")
	var wg sync.WaitGroup
	for i := range churners {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			for {
				name, mark := fmt.Sprintf("%d-%d", i, rng.IntN(4)), fmt.Sprint(rng.Uint32())
				if rng.IntN(3) == 0 {
					mark = ""
				}
				fmt.Printf("begin %s %s\n", name, mark)
				err := s.Update(func(tx *Tx) error {
					n := tx.Node()
					n.ID++
					tx.SetNode(n)
					churnOnce(tx, name, mark)
					return nil
				})
				if err != nil {
					fmt.Printf("failed %s %v\n", name, err)
					return
				}
				fmt.Printf("done %s %s\n", name, mark)
			}
		})
	}
	wg.Wait()
	return errors.New("not killed")
}

// churnOnce makes everything of a name bear a mark; "": makes it go.
func churnOnce(tx *Tx, name, mark string) {
	record, service := Record{Name: name, IP: addr("::1")}, Service{Name: name, Bridge: mark}
	attachment := Attachment{ID: name, Service: mark}
	if mark == "" {
		tx.DeleteRecord(record)
		tx.DeleteService(name)
		tx.DeleteAttachment(name)
		return
	}
	tx.PutRecord(record)
	tx.PutService(service)
	tx.PutAttachment(attachment)
}

// TestNothingIsLostWhenItIsKilled kills a process that updates, again and again at
// some moment, and opens the folder it worked on: what it was told is done is
// done, what it was not told is done or not done, and nothing is there by half.
func TestNothingIsLostWhenItIsKilled(t *testing.T) {
	kills := 30
	if testing.Short() {
		kills = 6
	}
	dir := newDir(t)
	var key string
	marks := make(map[string]string)
	var updates uint64
	for n := range kills {
		told, open, acknowledged := runChurn(t, dir, n, marks)
		s, err := Open(dir)
		require.NoError(t, err, "kill %d", n)
		k, err := s.NodeKey()
		require.NoError(t, err)
		if text, _ := k.MarshalText(); key == "" {
			key = string(text)
		} else {
			require.Equal(t, key, string(text))
		}
		st := load(t, s)
		require.NoError(t, s.Close())
		found := whole(t, st)
		require.GreaterOrEqual(t, st.Node.ID, updates+acknowledged, "kill %d", n)
		require.LessOrEqual(t, st.Node.ID, updates+acknowledged+uint64(len(open)), "kill %d", n)
		updates = st.Node.ID
		for name, mark := range open {
			if is := found[name]; is != mark {
				require.Equal(t, told[name], is, "kill %d: %s", n, name)
			}
			delete(told, name)
			if found[name] != "" {
				told[name] = found[name]
			}
		}
		require.Equal(t, told, found, "kill %d", n)
		marks = found
	}
	require.NotZero(t, updates)
}

// whole is the marks in a state, each of which everything of its name bears.
func whole(t *testing.T, st State) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for _, s := range st.Services {
		found[s.Name] = s.Bridge
	}
	require.Len(t, st.Records, len(found))
	require.Len(t, st.Attachments, len(found))
	for _, r := range st.Records {
		require.Contains(t, found, r.Name)
	}
	for _, a := range st.Attachments {
		require.Equal(t, found[a.ID], a.Service)
	}
	return found
}

// runChurn runs churn, kills it after a while, and returns what it was told is
// there, the updates it was not told the end of, and how many it was told of.
func runChurn(t *testing.T, dir string, n int, marks map[string]string) (told, open map[string]string, acknowledged uint64) {
	t.Helper()
	cmd := testchild.Command(t, "churn", dir, strconv.Itoa(n))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	told, open = maps.Clone(marks), make(map[string]string)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		what, rest, _ := strings.Cut(lines.Text(), " ")
		name, mark, _ := strings.Cut(rest, " ")
		switch what {
		case "ready":
			kill := time.AfterFunc(time.Duration(rand.IntN(25_000))*time.Microsecond, func() { cmd.Process.Kill() })
			defer kill.Stop()
		case "begin":
			open[name] = mark
		case "done":
			require.Equal(t, open[name], mark)
			delete(open, name)
			acknowledged++
			told[name] = mark
			if mark == "" {
				delete(told, name)
			}
		default:
			t.Fatalf("kill %d: %s", n, lines.Text())
		}
	}
	require.NoError(t, lines.Err())
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	require.Equal(t, -1, exit.ExitCode(), "it was killed, and did not exit")
	return told, open, acknowledged
}
