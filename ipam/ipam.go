package ipam

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/gaissmai/bart"
)

// Config is what an [Authority] is made from. Its zero value is an authority
// without pools.
type Config struct {
	// Pools are the prefixes addresses and subnets are handed out from, IPv4 and
	// IPv6, none overlapping another. They are added to those a file has already.
	Pools []netip.Prefix

	// Rest is how long a released address is kept from other owners, so that
	// nobody's connections and caches reach the next one. 0: 60 seconds;
	// negative: not at all.
	Rest time.Duration

	// MaxLeases bounds how many addresses may be leased at once. 0: 4,194,304.
	MaxLeases int
}

const (
	defaultRest      = time.Minute
	defaultMaxLeases = 1 << 22

	// maxRemembered bounds how many addresses that are free again are kept in
	// mind for their last owner.
	maxRemembered = 1 << 16
)

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Rest == 0:
		c.Rest = defaultRest
	case c.Rest < 0:
		c.Rest = 0
	}
	if c.MaxLeases < 0 {
		return c, fmt.Errorf("ipam: %w: MaxLeases is %d", ErrInvalid, c.MaxLeases)
	}
	if c.MaxLeases == 0 {
		c.MaxLeases = defaultMaxLeases
	}
	return c, nil
}

// An Authority hands out addresses and subnets, each once. Its methods may be
// used by several goroutines; each is one transaction, which is done whole and,
// for an authority in a file, on the disk when the method returns, or not at all.
type Authority struct {
	config Config
	epoch  time.Time // the zero of the authority's clock, which no change of the system's moves

	file   *file         // nil: memory only
	writer chan struct{} // full while the file is written

	mu         sync.RWMutex // protects all below
	closed     bool
	broken     error // nil, or why nothing may be changed any more
	pools      map[netip.Prefix]*pool
	latest     *pool                // the one asked for last, nil if it may be gone
	claims     bart.Table[*claim]   // finds the innermost claim around an address
	subnets    map[subnetKey]*claim // by whose they are
	records    addrIndex
	owned      ownerIndex
	leases     int
	remembered int           // rested records, of all pools
	released   uint64        // how many records were released
	tx         Tx            // the one under way
	wall       int64         // the system's time in Unix nanoseconds, looked at once a second,
	lookedAt   time.Duration // at this time of the authority's clock
	forming    *group        // nil, or not yet being written
	writing    *group        // nil, or being written
}

// NewMemory makes an authority that lives as long as the process.
func NewMemory(c Config) (*Authority, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	a := newAuthority(c)
	if err := a.Update(a.addConfigured); err != nil {
		return nil, err
	}
	return a, nil
}

func newAuthority(c Config) *Authority {
	now := time.Now()
	return &Authority{
		config:  c,
		epoch:   now,
		wall:    now.UnixNano(),
		writer:  make(chan struct{}, 1),
		pools:   make(map[netip.Prefix]*pool),
		records: newAddrIndex(),
		owned:   newOwnerIndex(),
		subnets: make(map[subnetKey]*claim),
	}
}

// addConfigured adds the pools of the configuration that are not there yet.
func (a *Authority) addConfigured(tx *Tx) error {
	for _, p := range a.config.Pools {
		if err := tx.AddPool(p); err != nil {
			return err
		}
	}
	return nil
}

// swap replaces what is known of an address and keeps every index in step. Called
// again with the two exchanged it undoes itself.
func (a *Authority) swap(old, new version) {
	from, to := old.record, new.record
	wasFree := from.isFree()
	if from != nil {
		switch {
		case from.released == 0:
			from.pool.leases--
			a.leases--
		case from.rested():
			from.pool.rested.remove(from)
			a.remembered--
		default:
			from.pool.resting.remove(from)
		}
	}
	if to != nil {
		to.state = new.state
		switch {
		case to.released == 0:
			to.pool.leases++
			a.leases++
		case to.rested():
			to.pool.rested.push(to)
			a.remembered++
		default:
			to.pool.resting.push(to)
		}
	}
	switch isFree := to.isFree(); {
	case wasFree && !isFree:
		n := fromAddr(to.addr)
		to.pool.free.remove(n, n)
	case !wasFree && isFree:
		n := fromAddr(from.addr)
		from.pool.free.add(n, n)
	}
	if from == to {
		return
	}
	if from != nil {
		a.owned.remove(from)
	}
	if to != nil {
		a.owned.add(to)
		a.records.put(to.addr, to)
	} else {
		a.records.put(from.addr, nil)
	}
}

// swapClaim is swap for a claim.
func (a *Authority) swapClaim(old, new *claim) {
	if old != nil {
		a.claims.Delete(old.prefix)
		delete(a.pools, old.prefix)
		a.latest = nil
		if old.class == classSubnet {
			delete(a.subnets, old.key())
		}
		if old.parent != nil {
			old.parent.claims--
			old.parent.free.add(rangeOf(old.prefix))
		}
	}
	if new != nil {
		a.claims.Insert(new.prefix, new)
		if new.pool != nil {
			a.pools[new.prefix] = new.pool
		}
		if new.class == classSubnet {
			a.subnets[new.key()] = new
		}
		if new.parent != nil {
			new.parent.claims++
			new.parent.free.remove(rangeOf(new.prefix))
		}
	}
}
