package dnsd

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxNameservers is how many of a file's name servers count, as in the C
	// library (resolv.conf(5), MAXNS).
	maxNameservers = 3
	// checkResolvConf is how often the file is looked at, and only if queries go
	// out.
	checkResolvConf = time.Second
	maxResolvConf   = 64 << 10
)

// A resolvConf follows the name servers of a file. While the file is missing, as
// it is for a moment where programs replace it, or cannot be read, those it named
// last stay.
type resolvConf struct {
	forwarder *forwarder
	path      string

	mu        sync.Mutex // protects the rest
	checked   time.Time
	file      os.FileInfo // as it was when it was read
	resolvers []*resolver
}

// newResolvConf reads the file, which must be there.
func newResolvConf(f *forwarder, path string) (*resolvConf, error) {
	c := &resolvConf{forwarder: f, path: path}
	if err := c.read(); err != nil {
		return nil, fmt.Errorf("dnsd: name servers of the system: %w", err)
	}
	c.checked = time.Now()
	return c, nil
}

// current is the name servers as the file has them now.
func (c *resolvConf) current() []*resolver {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) >= checkResolvConf {
		c.checked = time.Now()
		if err := c.read(); err != nil {
			c.forwarder.server.logger.Warn("dns: name servers of the system stay as they were", "err", err)
		}
	}
	return c.resolvers
}

// read takes over the file if it is not the one read last.
func (c *resolvConf) read() error {
	file, err := os.Open(c.path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if c.file != nil && os.SameFile(c.file, info) && c.file.ModTime().Equal(info.ModTime()) && c.file.Size() == info.Size() {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(file, maxResolvConf))
	if err != nil {
		return err
	}
	c.file = info
	old := c.resolvers
	c.resolvers = nil
	for _, addr := range parseResolvConf(text) {
		i := slices.IndexFunc(old, func(r *resolver) bool { return r.Addr.Addr() == addr })
		if i >= 0 { // what is known of it stays
			c.resolvers = append(c.resolvers, old[i])
			continue
		}
		u, err := Upstream{Addr: netip.AddrPortFrom(addr, 0)}.normal()
		if err == nil {
			c.resolvers = append(c.resolvers, c.forwarder.resolver(u))
		}
	}
	for _, r := range old {
		if !slices.Contains(c.resolvers, r) {
			r.stream.close()
		}
	}
	return nil
}

// parseResolvConf returns the name servers of a file in the form of
// resolv.conf(5), without duplicates. What is not one is passed over, as the C
// library does.
func parseResolvConf(text []byte) []netip.Addr {
	var addrs []netip.Addr
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxResolvConf+1)
	for lines.Scan() && len(addrs) < maxNameservers {
		line := lines.Text()
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(fields[1])
		if err != nil || addr.IsMulticast() {
			continue
		}
		addr = addr.Unmap()
		switch { // an unspecified address is this host (resolv.conf(5) of BSD, RFC 1122)
		case addr == netip.IPv4Unspecified():
			addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		case addr == netip.IPv6Unspecified():
			addr = netip.IPv6Loopback()
		}
		if !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}
