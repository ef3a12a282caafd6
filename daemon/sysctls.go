package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/internal/hostnet"
)

// Sysctls of one family are changed when the first rules need it, and put back
// with the last. What they were is on record before they are changed.
const (
	forward4  = "net.ipv4.ip_forward"
	forward6  = "net.ipv6.conf.all.forwarding"
	forwardOn = "1"

	// The kernel changes this together with forward4 (inet_forward_change of
	// net/ipv4/devinet.c).
	redirects4 = "net.ipv4.conf.all.accept_redirects"

	// acceptRA is for a link that takes its routes from router advertisements: the
	// kernel does not listen to them on a host that forwards, and drops the routes
	// it has from them, unless it is told 2 (Documentation/networking/ip-sysctl.rst).
	acceptRA   = "net.ipv6.conf.%s.accept_ra"
	acceptRAOn = "2"
)

// startForwarding makes the host forward packets of the families of rules;
// firewall.apply is held.
func (d *Daemon) startForwarding(want *hostnet.Firewall) error {
	f := &d.firewall
	for _, family := range []struct {
		begun *bool
		is    func(netip.Prefix) bool
		find  func() (change, keep map[string]string, err error)
	}{
		{&f.forwards4, func(p netip.Prefix) bool { return p.Addr().Is4() }, d.forwarding4},
		{&f.forwards6, func(p netip.Prefix) bool { return p.Addr().Is6() }, d.forwarding6},
	} {
		if *family.begun || !slices.ContainsFunc(want.Cluster, family.is) && !slices.ContainsFunc(want.Inside, family.is) {
			continue
		}
		change, keep, err := family.find()
		if err == nil {
			err = d.changeSysctls(change, keep)
		}
		if err != nil {
			return fmt.Errorf("make the host forward: %w", err)
		}
		*family.begun = true
	}
	return nil
}

// forwarding4 is what to set for IPv4 to be forwarded, and what else changes with
// it, with the values there are.
func (d *Daemon) forwarding4() (change, keep map[string]string, err error) {
	if forwards(forward4) {
		return nil, nil, nil
	}
	if keep, err = d.forwardingLinks("net.ipv4.conf.%s.forwarding"); err != nil {
		return nil, nil, err
	}
	if keep[redirects4], err = hostnet.ReadSysctl(redirects4); err != nil {
		return nil, nil, err
	}
	return map[string]string{forward4: forwardOn}, keep, nil
}

// forwarding6 is the same for IPv6.
func (d *Daemon) forwarding6() (change, keep map[string]string, err error) {
	if forwards(forward6) {
		return nil, nil, nil
	}
	if keep, err = d.forwardingLinks("net.ipv6.conf.%s.forwarding"); err != nil {
		return nil, nil, err
	}
	change = map[string]string{forward6: forwardOn}
	routes, err := os.Open("/proc/net/ipv6_route")
	if errors.Is(err, fs.ErrNotExist) {
		return change, keep, nil // a kernel without IPv6
	}
	if err != nil {
		return nil, nil, err
	}
	defer routes.Close()
	for _, link := range advertised(routes) {
		name := fmt.Sprintf(acceptRA, sysctlLink(link))
		// 0 stays: then a program sees to advertisements, whatever the kernel does.
		if value, err := hostnet.ReadSysctl(name); err == nil && value == "1" {
			change[name] = acceptRAOn
		}
	}
	return change, keep, nil
}

// forwards reports whether the whole host forwards a family by now: then links
// have what they need, or it was never there.
func forwards(name string) bool {
	value, err := hostnet.ReadSysctl(name)
	return err == nil && value == forwardOn
}

// forwardingLinks are the sysctls of links that forward already, which they would
// cease to do when the host as a whole does.
func (d *Daemon) forwardingLinks(format string) (map[string]string, error) {
	links, err := d.host.Links()
	if err != nil {
		return nil, err
	}
	keep := make(map[string]string)
	for _, l := range append(links, hostnet.Link{Name: "default"}) {
		name := fmt.Sprintf(format, sysctlLink(l.Name))
		if _, _, ours := d.owned(l); ours {
			continue
		}
		if value, err := hostnet.ReadSysctl(name); err == nil && value == forwardOn {
			keep[name] = value
		}
	}
	return keep, nil
}

// sysctlLink is a link's name in that of a sysctl, whose dots separate its parts.
func sysctlLink(name string) string { return strings.ReplaceAll(name, ".", "/") }

// advertised are the links that have routes from router advertisements, by a table
// in the form of /proc/net/ipv6_route.
func advertised(table io.Reader) []string {
	const flag = 0x40000 // RTF_ADDRCONF of linux/ipv6_route.h
	var links []string
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 10 {
			continue
		}
		flags, err := strconv.ParseUint(fields[8], 16, 32)
		if err == nil && flags&flag != 0 && !slices.Contains(links, fields[9]) {
			links = append(links, fields[9])
		}
	}
	return links
}

// changeSysctls sets what is not as it is to be, and records what it was and what
// keep says first. Without a change there is nothing to keep.
func (d *Daemon) changeSysctls(change, keep map[string]string) error {
	before := make(map[string]string)
	for name, value := range change {
		is, err := hostnet.ReadSysctl(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			delete(change, name) // the kernel cannot do it at all
		case err != nil:
			return err
		case is == value:
			delete(change, name)
		default:
			before[name] = is
		}
	}
	if len(change) == 0 {
		return nil
	}
	maps.Copy(before, keep)
	err := d.updateNode(func(n *state.Node) {
		if n.Sysctls == nil {
			n.Sysctls = make(map[string]string)
		}
		maps.Copy(n.Sysctls, before)
	})
	if err != nil {
		return fmt.Errorf("record the host's sysctls: %w", err)
	}
	// Those of links come before that of the whole host, by which the kernel decides
	// what becomes of their routes.
	for _, name := range slices.Backward(sysctlOrder(change)) {
		failpoint("firewall.sysctl:before")
		if err := hostnet.WriteSysctl(name, change[name]); err != nil {
			return err
		}
		failpoint("firewall.sysctl:after")
	}
	return nil
}

// stopForwarding puts sysctls back to what they were; firewall.apply is held.
func (d *Daemon) stopForwarding() error {
	before := d.node.load().Sysctls
	if len(before) > 0 {
		if err := restoreSysctls(before); err != nil {
			return fmt.Errorf("put the host's sysctls back: %w", err)
		}
		if err := d.updateNode(func(n *state.Node) { n.Sysctls = nil }); err != nil {
			return fmt.Errorf("strike the host's sysctls from the record: %w", err)
		}
	}
	d.firewall.forwards4, d.firewall.forwards6 = false, false
	return nil
}

// restoreSysctls puts sysctls back to what they were before the daemon changed
// them. One that somebody else changed meanwhile, or whose link is gone, is left
// alone. It can be done again.
func restoreSysctls(before map[string]string) error {
	var failed error
	back := make(map[string]bool) // of the families
	for _, name := range sysctlOrder(before) {
		is, err := hostnet.ReadSysctl(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		failed = errors.Join(failed, err)
		if ours, changed := changedTo(name); changed {
			if back[name] = is == ours || is == before[name]; is != ours {
				continue
			}
		} else if !back[forward4] && strings.HasPrefix(name, "net.ipv4.") || !back[forward6] && strings.HasPrefix(name, "net.ipv6.") {
			continue // what it changes with was not put back
		}
		if is != before[name] {
			failed = errors.Join(failed, hostnet.WriteSysctl(name, before[name]))
		}
	}
	return failed
}

// changedTo is the value that the daemon gives a sysctl; false is for those that
// the kernel changes with another.
func changedTo(name string) (string, bool) {
	switch {
	case name == forward4, name == forward6:
		return forwardOn, true
	case strings.HasSuffix(name, ".accept_ra"):
		return acceptRAOn, true
	}
	return "", false
}

// sysctlOrder is the order in which sysctls are put back: those of the whole host
// first, as they change those of links.
func sysctlOrder(values map[string]string) []string {
	names := slices.Sorted(maps.Keys(values))
	whole := func(name string) bool { return name == forward4 || name == forward6 }
	slices.SortStableFunc(names, func(a, b string) int {
		switch {
		case whole(a) && !whole(b):
			return -1
		case whole(b) && !whole(a):
			return 1
		}
		return 0
	})
	return names
}

// checkForwarding degrades "forwarding" when somebody else turned it off. It is not
// turned on again: who did it may have meant it.
func (d *Daemon) checkForwarding() {
	f := &d.firewall
	var off []string
	for name, begun := range map[string]bool{forward4: f.forwards4, forward6: f.forwards6} {
		if value, err := hostnet.ReadSysctl(name); begun && err == nil && value != forwardOn {
			off = append(off, name)
		}
	}
	if len(off) == 0 {
		d.recovered(partForwarding)
		return
	}
	slices.Sort(off)
	d.degrade(partForwarding, fmt.Errorf("somebody turned %s off: containers reach neither each other across nodes nor the outside: "+
		"`sysctl -w %[2]s=1` turns it on", strings.Join(off, " and "), off[0]))
}
