package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/dnsd"
)

const (
	// nameTTL is how long a resolver may keep a name: a container that comes back
	// with another address is found within it.
	nameTTL = 30 * time.Second

	maxRecords   = 65_536  // addresses of all names
	maxNameAddrs = 256     // of one name, so that its answer fits a message of 64 KiB with room to spare
	maxName      = 253     // bytes of a name in full (RFC 1035 section 2.3.4, as text)
	maxNameList  = 7 << 20 // bytes of list_dns's answer, below wire.MaxFrame
)

// names is the owner of the zone and its server.
type names struct {
	resolvConf string // whose name servers are asked for other names

	// writers keep changes of a name in one order, in memory and on the disk. A
	// name's is by its hash.
	writers [64]sync.Mutex

	telling sync.Mutex // held by who tells how names are served, which keeps the order

	mu      sync.RWMutex // protects the rest; never held while anything is waited for
	zone    string       // in lower case, without the final dot
	server  *nameServer
	records map[string][]netip.Addr // by name, relative to the zone; sorted
	count   int                     // of addresses
	size    int                     // of the list of them, in bytes
	serving map[netip.Addr]*nameService
	closed  bool
}

var nameSeed = maphash.MakeSeed()

// openNames makes the zone from the record, and a server that listens nowhere
// yet. The node's own network is known by then.
func (d *Daemon) openNames(recorded []state.Record) error {
	n := &d.names
	n.zone = lowerCase(strings.TrimSuffix(d.config.Zone, "."))
	n.resolvConf = cmp.Or(n.resolvConf, hostResolvers)
	n.records = make(map[string][]netip.Addr)
	n.serving = make(map[netip.Addr]*nameService)
	for _, r := range recorded {
		name, err := n.relative("name", r.Name)
		if err != nil {
			d.log.Warn("a recorded name is not served", "name", r.Name, "err", err)
			continue
		}
		addrs := append(n.records[name], r.IP)
		slices.SortFunc(addrs, netip.Addr.Compare)
		n.records[name] = slices.Compact(addrs)
	}
	for name, addrs := range n.records {
		n.count += len(addrs)
		n.size += listSize(name, addrs)
	}
	server, err := d.newNameServer(d.clusters())
	if err != nil {
		return err
	}
	n.server = server
	return nil
}

// closeNames ends the service of names. It is idempotent.
func (d *Daemon) closeNames() {
	n := &d.names
	n.mu.Lock()
	n.closed = true
	serving := n.serving
	n.serving = nil
	server := n.server
	n.mu.Unlock()
	for _, s := range serving {
		s.end()
	}
	if server != nil {
		server.Close()
	}
}

func (d *Daemon) registerDNS(ctx context.Context, r wire.RegisterDNS) error {
	name, err := d.names.relative("name", r.Name)
	if err != nil {
		return err
	}
	ip := r.IP.Unmap()
	if !ip.IsGlobalUnicast() || ip.Zone() != "" {
		return invalid("ip", "%v is no address of a host: give one of IPv4 or IPv6 unicast", ip)
	}
	return d.changeName(name, func(old []netip.Addr) []netip.Addr {
		next := slices.Clone(old)
		if r.Mode != wire.DNSAdd {
			next = slices.DeleteFunc(next, func(a netip.Addr) bool { return a.Is4() == ip.Is4() })
		}
		if at, found := slices.BinarySearchFunc(next, ip, netip.Addr.Compare); !found {
			next = slices.Insert(next, at, ip)
		}
		return next
	})
}

func (d *Daemon) unregisterDNS(ctx context.Context, r wire.UnregisterDNS) error {
	name, err := d.names.relative("name", r.Name)
	if err != nil {
		return err
	}
	return d.changeName(name, func([]netip.Addr) []netip.Addr { return nil })
}

// changeName gives a name other addresses, and records them. On error it has
// those it had.
func (d *Daemon) changeName(name string, change func(old []netip.Addr) []netip.Addr) error {
	n := &d.names
	writer := &n.writers[maphash.String(nameSeed, name)%uint64(len(n.writers))]
	writer.Lock()
	defer writer.Unlock()
	old := n.addrs(name)
	next := change(old)
	if slices.Equal(old, next) {
		return nil
	}
	if err := n.set(name, next); err != nil {
		return err
	}
	err := d.store.Update(func(tx *state.Tx) error {
		for _, a := range old {
			if !slices.Contains(next, a) {
				tx.DeleteRecord(state.Record{Name: name, IP: a})
			}
		}
		for _, a := range next {
			if !slices.Contains(old, a) {
				tx.PutRecord(state.Record{Name: name, IP: a})
			}
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("record name %q: %w", name, err)
		if back := n.set(name, old); back != nil {
			err = errors.Join(err, back)
		}
	}
	return err
}

// addrs is the addresses of a name, never to be changed.
func (n *names) addrs(name string) []netip.Addr {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.records[name]
}

// set gives a name its addresses, none of them taking it out.
func (n *names) set(name string, addrs []netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.records[name]
	count := n.count + len(addrs) - len(old)
	size := n.size + listSize(name, addrs) - listSize(name, old)
	if len(addrs) > len(old) { // what is taken away always fits
		switch {
		case len(addrs) > maxNameAddrs:
			return failed(wire.Exhausted, "name %q has %d addresses, the most a name can have: unregister_dns removes them", name, maxNameAddrs)
		case count > maxRecords:
			return failed(wire.Exhausted, "room for names is exhausted: there are %d addresses of names, as many as fit", maxRecords)
		case size > maxNameList:
			return failed(wire.Exhausted, "room for names is exhausted: their list would be longer than the %d bytes of an answer", maxNameList)
		}
	}
	if err := n.server.zone.SetAddresses(name, addrs...); err != nil {
		if errors.Is(err, dnsd.ErrName) {
			return &Error{Code: wire.InvalidRequest, Field: "name", Msg: "cannot be served", Err: err}
		}
		return &Error{Code: wire.Exhausted, Msg: fmt.Sprintf("name %q cannot have more addresses", name), Err: err}
	}
	if n.records[name] = addrs; len(addrs) == 0 {
		delete(n.records, name)
	}
	n.count, n.size = count, size
	return nil
}

// listSize is how many bytes a name takes in the answer to list_dns, at most.
func listSize(name string, addrs []netip.Addr) int {
	const (
		around = len(`{"name":"","ip":"","ttl_secs":30},`)
		ip     = len("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
	)
	return len(addrs) * (len(name) + ip + around)
}

// relative is a name without the zone, in lower case, from one that is in full or
// relative to the zone. Its labels are those of host names (RFC 1123 section 2.1),
// and may have underscores besides.
func (n *names) relative(field, text string) (string, error) {
	if len(text) > maxName+1 {
		return "", invalid(field, "has %d bytes, and a name at most %d", len(text), maxName)
	}
	name, full := strings.CutSuffix(lowerCase(text), ".")
	if name == n.zone || name == "" || name == "@" {
		return "", invalid(field, "%q is no name in the zone %s: give one such as %q", text, n.zone, "web."+n.zone)
	}
	inside := false
	if name, inside = strings.CutSuffix(name, "."+n.zone); full && !inside {
		return "", invalid(field, "%q is not in the zone %s, whose names are served here: leave the final dot out, or give one such as %q", text, n.zone, "web."+n.zone)
	}
	if name == n.zone || strings.HasSuffix(name, "."+n.zone) { // it would be another one the next time
		return "", invalid(field, "%q has the zone %s twice", text, n.zone)
	}
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "" || len(label) > 63:
			return "", invalid(field, "%q is not made of labels of 1 to 63 bytes with dots between them", text)
		case strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-"):
			return "", invalid(field, "%q has a label that begins or ends in a hyphen", text)
		}
		if i := strings.IndexFunc(label, func(r rune) bool { return !isNameByte(r) }); i >= 0 {
			return "", invalid(field, "%q has %q, and names are made of letters, digits, hyphens and underscores", text, []rune(label[i:])[0])
		}
	}
	if len(name)+1+len(n.zone) > maxName {
		return "", invalid(field, "%q has %d bytes with the zone %s, and a name at most %d", text, len(name)+1+len(n.zone), n.zone, maxName)
	}
	return name, nil
}

// lowerCase changes ASCII alone: of other letters none is in a name, whatever
// case they have (strings.ToLower makes a k of the Kelvin sign).
func lowerCase(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

func isNameByte(r rune) bool {
	return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_'
}

// listDNS is in the order of the names, and of their addresses.
func (d *Daemon) listDNS() (wire.DNS, error) {
	n := &d.names
	n.mu.RLock()
	list := make([]wire.DNSRecord, 0, n.count)
	for name, addrs := range n.records {
		for _, a := range addrs {
			list = append(list, wire.DNSRecord{Name: name, IP: a, TTL: uint32(nameTTL.Seconds())})
		}
	}
	n.mu.RUnlock()
	slices.SortFunc(list, func(a, b wire.DNSRecord) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), a.IP.Compare(b.IP))
	})
	return wire.DNS{Zone: n.zone, Records: list}, nil
}

func (d *Daemon) resolve(r wire.Resolve) (wire.Resolved, error) {
	n := &d.names
	name, err := n.relative("name", r.Name)
	if err != nil {
		return wire.Resolved{}, err
	}
	addrs := n.addrs(name)
	if len(addrs) == 0 {
		return wire.Resolved{}, &Error{Code: wire.NotFound, Field: "name",
			Msg: fmt.Sprintf("%q has no address: register_dns gives it one", name+"."+n.zone)}
	}
	return wire.Resolved{Name: name + "." + n.zone, IPs: addrs, TTL: uint32(nameTTL.Seconds())}, nil
}

// dnsStatus never waits.
func (d *Daemon) dnsStatus() wire.DNSStatus {
	n := &d.names
	n.mu.RLock()
	defer n.mu.RUnlock()
	s := wire.DNSStatus{Zone: n.zone, Names: uint32(len(n.records))}
	for a, service := range n.serving {
		if service.err == nil {
			s.Addresses = append(s.Addresses, a)
		}
	}
	slices.SortFunc(s.Addresses, netip.Addr.Compare)
	if n.server != nil {
		stats := n.server.Stats()
		s.Queries = stats.UDP + stats.TCP + stats.Inline
		s.Failures = stats.Responses["SERVFAIL"] + stats.RateLimited
	}
	return s
}
