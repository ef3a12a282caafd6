// Command ipam measures allocation by this project's ipam and by
// github.com/metal-stack/go-ipam, both in memory, in turn; and by ours in a file.
//
// It measures allocation alone, a few at a time with so many leases there, and
// churn, which is the release of any one lease and the allocation of its address,
// then the lowest free one, to somebody else. Only the ratio of rounds that were
// run one after the other says something on a machine that has other work to do.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	peer "github.com/metal-stack/go-ipam"

	"github.com/overlayd/overlayd/bench/internal/report"
	"github.com/overlayd/overlayd/ipam"
)

var pool = netip.MustParsePrefix("10.0.0.0/8")

func main() {
	log.SetFlags(0)
	asJSON := flag.Bool("json", false, "print an array of JSON objects, as go run ./bench -json writes")
	rounds := flag.Int("rounds", 5, "pairs of rounds")
	round := flag.Duration("round", 200*time.Millisecond, "time of a round")
	most := flag.Int("leases", 1_000_000, "the most leases to measure with")
	flag.Parse()
	if *rounds < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	var rows []report.Row
	for n := 10; n <= *most; n *= 10 {
		row, err := measure(n, *rounds, *round)
		if err != nil {
			log.Fatal(err)
		}
		rows = append(rows, row)
		if *asJSON {
			continue
		}
		if err := row.Text(os.Stdout); err != nil {
			log.Fatal(err)
		}
	}
	if *asJSON {
		if err := (&report.Report{Rows: rows}).JSON(os.Stdout); err != nil {
			log.Fatal(err)
		}
	}
}

// A side is one of those that are compared, with its leases.
type side interface {
	alloc() error   // one more
	release() error // all that alloc made
	churn() error
}

// measure runs rounds of ours and the peer's in turn, with n leases.
func measure(n, rounds int, d time.Duration) (report.Row, error) {
	row := report.Row{
		Scenario: "ipam-alloc",
		What:     fmt.Sprintf("one allocation, and the release of any lease with an allocation for another, among %d", n),
		Peer:     fmt.Sprintf("go-ipam, %d leases", n),
		Pairs:    rounds,
	}
	dir, err := os.MkdirTemp("", "ipam")
	if err != nil {
		return row, err
	}
	defer os.RemoveAll(dir)
	config := ipam.Config{Pools: []netip.Prefix{pool}, Rest: -1}
	memory, err := ipam.NewMemory(config)
	if err != nil {
		return row, err
	}
	file, err := ipam.Open(filepath.Join(dir, "leases.db"), config)
	if err != nil {
		return row, err
	}
	defer file.Close()
	mine, err := newOurs(memory, n)
	if err != nil {
		return row, err
	}
	inFile, err := newOurs(file, n)
	if err != nil {
		return row, err
	}
	theirs, err := newPeer(n)
	if err != nil {
		return row, err
	}
	runtime.GC()
	if row.Figure, err = compare("allocate", mine, theirs, allocTime, rounds, d); err != nil {
		return row, err
	}
	churn, err := compare("release and allocate", mine, theirs, churnTime, rounds, d)
	if err != nil {
		return row, err
	}
	var times []float64
	for range rounds {
		ns, err := allocTime(inFile, d)
		if err != nil {
			return row, err
		}
		times = append(times, ns)
	}
	row.More = []report.Figure{churn, {Metric: "allocate in a file", Unit: "ns", Better: report.Lower, Ours: report.NewSpread(times)}}
	return row, nil
}

func compare(metric string, mine, theirs side, timed func(side, time.Duration) (float64, error), rounds int, d time.Duration) (report.Figure, error) {
	var a, b []float64
	for range rounds {
		ours, err := timed(mine, d)
		if err != nil {
			return report.Figure{}, err
		}
		peers, err := timed(theirs, d)
		if err != nil {
			return report.Figure{}, err
		}
		a, b = append(a, ours), append(b, peers)
	}
	return report.Compare(metric, "ns", report.Lower, a, b), nil
}

// allocTime allocates for about d, some at a time, whose release is not counted.
func allocTime(s side, d time.Duration) (float64, error) {
	const some = 10
	var took time.Duration
	n := 0
	for ; took < d; n += some {
		start := time.Now()
		for range some {
			if err := s.alloc(); err != nil {
				return 0, err
			}
		}
		took += time.Since(start)
		if err := s.release(); err != nil {
			return 0, err
		}
	}
	return float64(took.Nanoseconds()) / float64(n), nil
}

func churnTime(s side, d time.Duration) (float64, error) {
	start := time.Now()
	for n := 1; ; n++ {
		if err := s.churn(); err != nil {
			return 0, err
		}
		if took := time.Since(start); took >= d {
			return float64(took.Nanoseconds()) / float64(n), nil
		}
	}
}

type ours struct {
	a      *ipam.Authority
	leases []ipam.Lease
	next   ipam.Owner   // who gets an address in churn
	owners []ipam.Owner // who get one in alloc, in turn
	turn   int
	more   []ipam.Lease
}

func newOurs(a *ipam.Authority, n int) (*ours, error) {
	o := &ours{a: a, leases: make([]ipam.Lease, n), next: container("next")}
	for i := range 1024 {
		o.owners = append(o.owners, container("more "+strconv.Itoa(i)))
	}
	return o, a.Update(func(tx *ipam.Tx) (err error) {
		for i := range o.leases {
			if o.leases[i], err = tx.Allocate(pool, container(strconv.Itoa(i))); err != nil {
				return err
			}
		}
		return nil
	})
}

func container(id string) ipam.Owner { return ipam.Owner{Kind: "container", ID: id} }

func (o *ours) alloc() error {
	l, err := o.a.Allocate(pool, o.owners[o.turn%len(o.owners)])
	o.turn++
	o.more = append(o.more, l)
	return err
}

func (o *ours) release() error {
	err := o.a.Release(o.more...)
	o.more = o.more[:0]
	return err
}

func (o *ours) churn() (err error) {
	l := &o.leases[rand.IntN(len(o.leases))]
	gone := *l
	if err := o.a.Release(gone); err != nil {
		return err
	}
	*l, err = o.a.Allocate(pool, o.next)
	o.next = gone.Owner
	return err
}

type theirs struct {
	p    peer.Ipamer
	held []string
	more []string
}

// newPeer loads the peer with n addresses, which it would take hours to acquire.
func newPeer(n int) (*theirs, error) {
	s := &theirs{p: peer.New(context.Background()), held: make([]string, n)}
	taken := map[string]bool{"10.0.0.0": true, "10.255.255.255": true}
	addr := pool.Addr()
	for i := range s.held {
		addr = addr.Next()
		s.held[i] = addr.String()
		taken[s.held[i]] = true
	}
	dump, err := json.Marshal([]map[string]any{
		{"Cidr": pool.String(), "AvailableChildPrefixes": map[string]bool{}, "IPs": taken},
	})
	if err != nil {
		return nil, err
	}
	return s, s.p.Load(context.Background(), string(dump))
}

func (s *theirs) alloc() error {
	ip, err := s.p.AcquireIP(context.Background(), pool.String())
	if err != nil {
		return err
	}
	s.more = append(s.more, ip.IP.String())
	return nil
}

func (s *theirs) release() error {
	for _, addr := range s.more {
		if err := s.p.ReleaseIPFromPrefix(context.Background(), pool.String(), addr); err != nil {
			return err
		}
	}
	s.more = s.more[:0]
	return nil
}

func (s *theirs) churn() error {
	addr := s.held[rand.IntN(len(s.held))]
	if err := s.p.ReleaseIPFromPrefix(context.Background(), pool.String(), addr); err != nil {
		return err
	}
	ip, err := s.p.AcquireIP(context.Background(), pool.String())
	if err != nil {
		return err
	}
	if got := ip.IP.String(); got != addr {
		return fmt.Errorf("the peer gave %s and not %s", got, addr)
	}
	return nil
}
