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
	"slices"
	"strconv"
	"time"

	peer "github.com/metal-stack/go-ipam"

	"github.com/overlayd/overlayd/ipam"
)

var pool = netip.MustParsePrefix("10.0.0.0/8")

// A result is what was measured with so many leases.
type result struct {
	Leases int        `json:"leases"`
	Alloc  comparison `json:"alloc"`
	Churn  comparison `json:"churn"`
	File   float64    `json:"file_alloc_ns"` // ours in a file, one allocation a transaction
}

// A comparison is nanoseconds per operation of the median round, and the peer's by
// ours of each pair of rounds.
type comparison struct {
	Ours  float64 `json:"ours_ns"`
	Peer  float64 `json:"peer_ns"`
	Ratio spread  `json:"ratio"`
	Flat  float64 `json:"ours_to_fewest_leases"`
}

type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func main() {
	log.SetFlags(0)
	asJSON := flag.Bool("json", false, "print one JSON object a line")
	rounds := flag.Int("rounds", 5, "pairs of rounds")
	round := flag.Duration("round", 200*time.Millisecond, "time of a round")
	most := flag.Int("leases", 1_000_000, "the most leases to measure with")
	flag.Parse()
	if *rounds < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if !*asJSON {
		fmt.Println("   leases          ours ns    peer ns  peer/ours [min to max]   ours to fewest leases")
	}
	var fewest result
	for n := 10; n <= *most; n *= 10 {
		r, err := measure(n, *rounds, *round)
		if err != nil {
			log.Fatal(err)
		}
		if fewest.Leases == 0 {
			fewest = r
		}
		r.Alloc.Flat, r.Churn.Flat = r.Alloc.Ours/fewest.Alloc.Ours, r.Churn.Ours/fewest.Churn.Ours
		if *asJSON {
			if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
				log.Fatal(err)
			}
			continue
		}
		for i, c := range []comparison{r.Alloc, r.Churn} {
			fmt.Printf("%9d  %s %10.0f %10.0f %10.1f [%.1f to %.1f] %14.2f\n",
				r.Leases, []string{"alloc", "churn"}[i], c.Ours, c.Peer, c.Ratio.Median, c.Ratio.Min, c.Ratio.Max, c.Flat)
		}
		fmt.Printf("%9d  alloc in a file %10.0f\n", r.Leases, r.File)
	}
}

// A side is one of those that are compared, with its leases.
type side interface {
	alloc() error   // one more
	release() error // all that alloc made
	churn() error
}

// measure runs rounds of ours and the peer's in turn, with n leases.
func measure(n, rounds int, d time.Duration) (result, error) {
	dir, err := os.MkdirTemp("", "ipam")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(dir)
	config := ipam.Config{Pools: []netip.Prefix{pool}, Rest: -1}
	memory, err := ipam.NewMemory(config)
	if err != nil {
		return result{}, err
	}
	file, err := ipam.Open(filepath.Join(dir, "leases.db"), config)
	if err != nil {
		return result{}, err
	}
	defer file.Close()
	mine, err := newOurs(memory, n)
	if err != nil {
		return result{}, err
	}
	inFile, err := newOurs(file, n)
	if err != nil {
		return result{}, err
	}
	theirs, err := newPeer(n)
	if err != nil {
		return result{}, err
	}
	runtime.GC()
	r := result{Leases: n}
	if r.Alloc, err = compare(mine, theirs, allocTime, rounds, d); err != nil {
		return r, err
	}
	if r.Churn, err = compare(mine, theirs, churnTime, rounds, d); err != nil {
		return r, err
	}
	var times []float64
	for range rounds {
		ns, err := allocTime(inFile, d)
		if err != nil {
			return r, err
		}
		times = append(times, ns)
	}
	r.File = median(times)
	return r, nil
}

func compare(mine, theirs side, timed func(side, time.Duration) (float64, error), rounds int, d time.Duration) (comparison, error) {
	var a, b, ratios []float64
	for range rounds {
		ours, err := timed(mine, d)
		if err != nil {
			return comparison{}, err
		}
		peers, err := timed(theirs, d)
		if err != nil {
			return comparison{}, err
		}
		a, b, ratios = append(a, ours), append(b, peers), append(ratios, peers/ours)
	}
	return comparison{
		Ours: median(a), Peer: median(b),
		Ratio: spread{median(ratios), slices.Min(ratios), slices.Max(ratios)},
	}, nil
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

func median(of []float64) float64 {
	of = slices.Sorted(slices.Values(of))
	return of[len(of)/2]
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
