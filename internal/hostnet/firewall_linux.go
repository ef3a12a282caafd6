package hostnet

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// tableName is of the tables that are ours, one of family inet and, for what only
// bridges see, one of family bridge. Nothing else of the host's rules is read or
// changed.
const tableName = "overlayd"

// SetFirewall makes the host's rules for overlays what f says, in the place of those
// that were there, in one transaction: no packet sees a part of them, and what is
// connected stays so. On error the rules are as they were, unless it is
// os.ErrDeadlineExceeded, and nobody knows. Calls one after the other
// are the caller's to see to.
//
// Traffic from Inside to the outside is masqueraded. Addresses of Cluster are reached
// only through Devices, Bridges and routed cables (AddVeth): what would leave by
// another link, because a device is gone, is refused and not sent in the clear, and
// what comes from another link from or to such an address is dropped. A host that has
// addresses of Cluster otherwise than through us does not work with it.
//
// Ports are reached from everywhere, by programs of the host and by containers, their
// own among them, at the host's addresses. A container sees who asks, but where
// answers would miss the host it sees the gateway: from a container, and from
// 127.0.0.1. There is no reaching a port by ::1, from which Linux lets nothing out.
// For 127.0.0.1 martian packets are allowed to Bridges (route_localnet) and from
// there turned away by rule; where sysctls are not ours to write 127.0.0.1 does not
// do.
//
// The rules take nothing from the host's own: what another table drops is dropped.
//
// NAT in tables of family inet came with Linux 5.2: what is older refuses the rules.
func (h *Handle) SetFirewall(f Firewall) error {
	f, err := f.normal()
	if err == nil {
		err = h.setRules(f)
	}
	if err == nil {
		err = h.routeLocalnet(f.Bridges, slices.ContainsFunc(f.Ports, func(p Forward) bool { return p.To.Addr().Is4() }))
	}
	if err != nil {
		return fmt.Errorf("set firewall: %w", err)
	}
	return nil
}

// setRules changes the rules, but the first time of a handle, when they may be of
// another version of us, or when they cannot be changed, makes them anew. A kernel
// without the family bridge does without its table, and is not asked for it again.
func (h *Handle) setRules(f Firewall) error {
	change := func(anew bool, tables ...*nftables.Table) error {
		return h.transact(func(c *nftables.Conn) error {
			for _, t := range tables {
				r := &ruleset{Firewall: f, conn: c, table: t, sets: map[string]*nftables.Set{}}
				if err := r.change(anew); err != nil {
					return err
				}
			}
			return nil
		})
	}
	tables := []*nftables.Table{inetTable(), bridgeTable()}
	if h.noBridgeRules.Load() {
		tables = tables[:1]
	}
	if h.knowsRules.Load() && change(false, tables...) == nil {
		return nil
	}
	// To a transaction a kernel without nf_tables gives one answer, where the module
	// waits for one to each part of it (nfnetlink_rcv_batch).
	_, err := h.listTables()
	if err != nil {
		return err
	}
	err = change(true, tables...)
	if err != nil && len(tables) > 1 && change(true, tables[0]) == nil {
		h.noBridgeRules.Store(lacksFamily(err))
		err = nil
	}
	h.knowsRules.Store(err == nil)
	return err
}

// lacksFamily reports whether an error is that of a kernel without a family of tables
// (nft_supported_family), or without the kinds of chains and expressions of one
// (nf_tables_chain_type_lookup, nft_expr_type_get). Any other may be gone the next
// time.
func lacksFamily(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.ENOENT)
}

// LacksBridgeRules reports whether SetFirewall found the kernel without nftables for
// bridges (CONFIG_NF_TABLES_BRIDGE): then nobody keeps a container from telling others
// on its bridge that it is a router.
func (h *Handle) LacksBridgeRules() bool { return h.noBridgeRules.Load() }

// RemoveFirewall removes our rules. That there are none is no error.
func (h *Handle) RemoveFirewall() error {
	tables, err := h.tables()
	if err == nil && len(tables) == 0 {
		return nil
	}
	var bridges []string
	if err == nil && hasInet(tables) {
		bridges, err = h.firewallBridges()
	}
	if err == nil {
		err = h.routeLocalnet(bridges, false) // while it is guarded
	}
	if err == nil {
		err = h.transact(func(c *nftables.Conn) error {
			for _, t := range tables {
				c.DelTable(t)
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("remove firewall: %w", err)
	}
	return nil
}

// HasFirewall reports whether rules of ours are there. Without the table of family
// inet, to which SetFirewall may have added one of family bridge, they are not.
func (h *Handle) HasFirewall() (bool, error) {
	tables, err := h.tables()
	if err != nil {
		return false, fmt.Errorf("look for firewall: %w", err)
	}
	return hasInet(tables), nil
}

func hasInet(tables []*nftables.Table) bool {
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Family == nftables.TableFamilyINet })
}

// tables returns those of ours that there are, and none where none can be.
func (h *Handle) tables() ([]*nftables.Table, error) {
	ours, err := h.listTables()
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil
	}
	return ours, err
}

func (h *Handle) listTables() (ours []*nftables.Table, err error) {
	err = h.nftables(func(c *nftables.Conn) error {
		for _, want := range []*nftables.Table{inetTable(), bridgeTable()} {
			there, err := c.ListTablesOfFamily(want.Family)
			if errors.Is(err, unix.EINVAL) { // of nfnetlink without nf_tables (nfnetlink_rcv_msg)
				err = unix.EPROTONOSUPPORT
			}
			if err != nil {
				return err
			}
			if slices.ContainsFunc(there, func(t *nftables.Table) bool { return t.Name == want.Name }) {
				ours = append(ours, want)
			}
		}
		return nil
	})
	return ours, err
}

func inetTable() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
}

func bridgeTable() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: bridgeFamily}
}

// bridgeFamily is a variable for tests, which have no kernel without it.
var bridgeFamily = nftables.TableFamilyBridge

// transact has the kernel do all that f asks for, or nothing.
func (h *Handle) transact(f func(c *nftables.Conn) error) error {
	return h.nftables(func(c *nftables.Conn) error {
		if err := f(c); err != nil {
			return err
		}
		return c.Flush()
	})
}

// transactionBuffer is for a transaction, which is one message to the kernel, and for
// its answers to the parts of it.
const transactionBuffer = 16 << 20

// patience is how long the kernel may take to answer. A transaction of 16,384 ports
// takes it a tenth of a second; an answer that it has no memory for never comes.
const patience = 20 * time.Second

func (h *Handle) nftables(f func(c *nftables.Conn) error) error {
	var conn *nftables.Conn
	err := h.namespace.do(func() (err error) {
		conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
			return errors.Join(c.SetReadBuffer(transactionBuffer), c.SetWriteBuffer(transactionBuffer), c.SetDeadline(time.Now().Add(patience)))
		}))
		return err
	})
	if err == nil {
		err = f(conn)
		conn.CloseLasting()
	}
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("the kernel has no nftables (modprobe nf_tables): %w", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("run as root, or with CAP_NET_ADMIN in this network namespace: %w", err)
	}
	return err
}

// firewallBridges returns the bridges the rules of now are for.
func (h *Handle) firewallBridges() (names []string, err error) {
	err = h.nftables(func(c *nftables.Conn) error {
		// That there is no set the module does not tell from other errors.
		sets, err := c.GetSets(inetTable())
		if err != nil || !slices.ContainsFunc(sets, func(s *nftables.Set) bool { return s.Name == bridgeSet }) {
			return err // or rules of another version of us
		}
		elements, err := c.GetSetElements(&nftables.Set{Table: inetTable(), Name: bridgeSet})
		for _, e := range elements {
			names = append(names, unix.ByteSliceToString(e.Key))
		}
		return err
	})
	return names, err
}

// routeLocalnet lets packets with a loopback address go to and come from bridges, or
// not.
func (h *Handle) routeLocalnet(bridges []string, on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	return h.namespace.do(func() error {
		for _, b := range bridges {
			_ = writeParameter("/proc/sys/net/ipv4/conf/"+b+"/route_localnet", value)
		}
		return nil
	})
}

// normal returns f sorted and without doubles, or what is wrong with it.
func (f Firewall) normal() (Firewall, error) {
	var err error
	if f.Devices, err = linkNames(f.Devices); err != nil {
		return f, err
	}
	if f.Bridges, err = linkNames(f.Bridges); err != nil {
		return f, err
	}
	for _, p := range slices.Concat(f.Inside, f.Cluster) {
		if !p.IsValid() || p.Addr().Is4In6() {
			return f, fmt.Errorf("%v is no prefix: %w", p, fs.ErrInvalid)
		}
	}
	if f.MTU < 0 || f.MTU > 65535 {
		return f, fmt.Errorf("MTU %d is out of range: %w", f.MTU, fs.ErrInvalid)
	}
	f.Ports = slices.Clone(f.Ports)
	for i, p := range f.Ports {
		if f.Ports[i], err = p.normal(); err != nil {
			return f, err
		}
	}
	slices.SortFunc(f.Ports, func(a, b Forward) int {
		return cmp.Or(a.compareHost(b), a.To.Compare(b.To))
	})
	f.Ports = slices.Compact(f.Ports)
	for i, p := range f.Ports {
		if i > 0 && p.compareHost(f.Ports[i-1]) == 0 && p.To.Addr().Is4() == f.Ports[i-1].To.Addr().Is4() {
			return f, fmt.Errorf("port %d/%s leads to %v and to %v: %w", p.HostPort, p.Proto, f.Ports[i-1].To, p.To, unix.EEXIST)
		}
	}
	return f, nil
}

func (p Forward) normal() (Forward, error) {
	p.HostIP = p.HostIP.Unmap()
	if p.HostIP.IsValid() && p.HostIP.IsUnspecified() {
		if p.HostIP.Is4() != p.To.Addr().Is4() {
			return p, fmt.Errorf("port %d/%s: %v cannot lead to %v, of another family: %w", p.HostPort, p.Proto, p.HostIP, p.To, fs.ErrInvalid)
		}
		p.HostIP = netip.Addr{}
	}
	switch to := p.To; {
	case p.Proto != "tcp" && p.Proto != "udp":
		return p, fmt.Errorf("port %d: protocol %q is neither tcp nor udp: %w", p.HostPort, p.Proto, fs.ErrInvalid)
	case p.HostPort == 0:
		return p, fmt.Errorf("port 0/%s is none: %w", p.Proto, fs.ErrInvalid)
	case !to.Addr().IsValid() || to.Addr().Is4In6() || to.Addr().Zone() != "" || to.Port() == 0:
		return p, fmt.Errorf("port %d/%s leads nowhere: %v: %w", p.HostPort, p.Proto, to, fs.ErrInvalid)
	case p.HostIP.IsValid() && p.HostIP.Is4() != to.Addr().Is4():
		return p, fmt.Errorf("port %d/%s: %v cannot lead to %v, of another family: %w", p.HostPort, p.Proto, p.HostIP, to, fs.ErrInvalid)
	case p.HostIP.Zone() != "":
		return p, fmt.Errorf("port %d/%s: %v has a zone: %w", p.HostPort, p.Proto, p.HostIP, fs.ErrInvalid)
	}
	return p, nil
}

// compareHost orders by what of the host is published.
func (p Forward) compareHost(q Forward) int {
	return cmp.Or(cmp.Compare(p.HostPort, q.HostPort), cmp.Compare(p.Proto, q.Proto), p.HostIP.Compare(q.HostIP))
}

func linkNames(names []string) ([]string, error) {
	for _, n := range names {
		if n == "" || len(n) >= unix.IFNAMSIZ {
			return nil, fmt.Errorf("%q is no name of a link: %w", n, fs.ErrInvalid)
		}
	}
	names = slices.Sorted(slices.Values(names))
	return slices.Compact(names), nil
}
