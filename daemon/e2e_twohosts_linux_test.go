package daemon_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

const zone = "overlay.internal"

func TestE2EAnyContainerReachesAnyOther(t *testing.T) {
	t.Parallel()
	for six, n := range map[bool]int{false: 3, true: 1} {
		t.Run(fmt.Sprintf("over an underlay of IPv%d", map[bool]int{false: 4, true: 6}[six]), func(t *testing.T) {
			p := joinHosts(t, six, n, "web", "api", "db")
			var g errgroup.Group
			g.SetLimit(4)
			// A dedicated service is a network of its own between the hosts.
			for _, group := range [][]*container{p.all("web", "api"), p.all("db")} {
				for _, from := range group {
					for _, to := range group {
						if from != to {
							g.Go(func() error { return reach(from, to) })
						}
					}
				}
			}
			require.NoError(t, g.Wait())
			for i, h := range p.hosts {
				h.verify(append(append(p.containers[i]["web"], p.containers[i]["api"]...), p.containers[i]["db"]...)...)
			}
			asked := p.containers[0]["web"][0]
			for _, c := range p.all("web", "db") {
				server := "@" + asked.at.DNSServer.String()
				for _, args := range [][]string{{server, c.name + "." + zone, "A"}, {server, "+tcp", c.name + "." + zone, "A"}} {
					out, err := asked.dig(args...)
					require.NoError(t, err)
					require.Equal(t, family(c.at, false).String(), out)
				}
			}
			out, err := asked.run("dig", "@"+asked.at.DNSServer.String(), "+time=2", "nobody."+zone)
			require.NoError(t, err)
			require.Contains(t, out, "NXDOMAIN")
		})
	}
}

// reach wants one container to reach another by address and by name, in both
// families, and every protocol.
func reach(from, to *container) error {
	for _, six := range []bool{false, true} {
		a, kind, network := family(to.at, six), dns.TypeA, "udp"
		if six {
			kind, network = dns.TypeAAAA, "tcp"
		}
		if !a.IsValid() {
			return fmt.Errorf("%s has no address, IPv6 %v", to.name, six)
		}
		found, err := from.lookup(network, from.at.DNSServer, to.name+"."+zone, kind)
		if err != nil {
			return err
		}
		if len(found) != 1 || found[0] != a {
			return fmt.Errorf("%s asks %s for %s and gets %v instead of %s", from.name, from.at.DNSServer, to.name, found, a)
		}
		if err := from.ping(found[0]); err != nil {
			return err
		}
		for _, network := range []string{"tcp", "udp"} {
			if err := from.say(network, netip.AddrPortFrom(found[0], echoPort)); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestE2EALargeTransferKeepsItsHash(t *testing.T) {
	p := joinHosts(t, false, 1, "web")
	from, to := p.containers[0]["web"][0], p.containers[1]["web"][0]
	begin := time.Now()
	require.NoError(t, from.transfer(netip.AddrPortFrom(family(to.at, false), echoPort), int64(*transferMB)<<20))
	t.Logf("%d MiB there and back in %v", *transferMB, time.Since(begin))
	require.NoError(t, from.transfer(netip.AddrPortFrom(family(to.at, true), echoPort), int64(*transferMB)<<20/4))
}

// outside joins a host to a namespace that is the rest of the world: 198.51.100.2,
// which knows no way to the overlay.
func outside(t *testing.T, h *host) (*testnet.Namespace, netip.Addr) {
	t.Helper()
	world := testnet.NewNamespace(t)
	require.NoError(t, testnet.Veth(
		testnet.Port{Namespace: h.ns, Name: "out", Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24"), netip.MustParsePrefix("2001:db8:2::1/64")}},
		testnet.Port{Namespace: world, Name: "in", Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24"), netip.MustParsePrefix("2001:db8:2::2/64")}}))
	h.run("ip", "route", "add", "default", "via", "198.51.100.2")
	h.run("ip", "-6", "route", "add", "default", "via", "2001:db8:2::2")
	return world, netip.MustParseAddr("198.51.100.2")
}

func TestE2EAContainerReachesTheOutsideAsItsHost(t *testing.T) {
	h := startHost(t)
	world, _ := outside(t, h)
	h.setupGlobal(1)
	h.setupService("web", "shared")
	c := newContainer(t, "web-0")
	h.attach(c, "web", false)

	var l net.Listener
	var err error
	world.Do(func() { l, err = net.Listen("tcp", ":80") })
	require.NoError(t, err)
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			io.WriteString(conn, host)
			conn.Close()
		}
	}()
	for server, want := range map[string]string{"198.51.100.2": "198.51.100.1", "2001:db8:2::2": "2001:db8:2::1"} {
		conn, err := c.dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(server), 80))
		require.NoError(t, err)
		got, err := io.ReadAll(conn)
		conn.Close()
		require.NoError(t, err)
		require.Equal(t, want, string(got), "who the outside sees")
		require.NoError(t, c.ping(netip.MustParseAddr(server)))
	}
}

// A container's address must never be seen outside, nor may what belongs on the
// overlay leave in the clear when there is no peer for it.
func TestE2ENothingOfTheOverlayLeavesInTheClear(t *testing.T) {
	h := startHost(t)
	world, _ := outside(t, h)
	h.setupGlobal(1)
	h.setupService("web", "shared")
	c := newContainer(t, "web-0")
	h.attach(c, "web", false)
	seen := capture(t, world)

	require.Error(t, c.ping(netip.MustParseAddr("10.200.99.1"), "-W", "0.2"))
	require.Error(t, c.ping(netip.MustParseAddr("fd00:200:0:99::1"), "-W", "0.2"))
	require.NoError(t, h.TeardownGlobalOverlay(h.ctx))
	require.Error(t, c.ping(netip.MustParseAddr("10.200.99.1"), "-W", "0.2"))
	require.Error(t, c.ping(netip.MustParseAddr("fd00:200:0:99::1"), "-W", "0.2"))
	require.NoError(t, c.ping(netip.MustParseAddr("198.51.100.2")))

	var through int
	for _, packet := range seen() {
		src, dst := addresses(packet)
		for _, inside := range strings.Split(cluster, ",") {
			prefix := netip.MustParsePrefix(inside)
			require.False(t, prefix.Contains(src), "%s to %s was seen outside", src, dst)
			require.False(t, prefix.Contains(dst), "%s to %s was seen outside", src, dst)
		}
		if dst == netip.MustParseAddr("198.51.100.2") {
			through++
		}
	}
	require.NotZero(t, through, "the capture saw nothing, so proves nothing")
}

func TestE2EPathsOfAnySizeHaveNoBlackHole(t *testing.T) {
	t.Parallel()
	for _, six := range []bool{false, true} {
		for _, mtu := range []int{1420, 1280} {
			t.Run(fmt.Sprintf("underlay of IPv%d with MTU %d", map[bool]int{false: 4, true: 6}[six], mtu), func(t *testing.T) {
				p := joinHosts(t, six, 1, "web")
				for _, h := range p.hosts {
					h.run("ip", "link", "set", "uplink", "mtu", fmt.Sprint(mtu))
				}
				from, to := p.containers[0]["web"][0], p.containers[1]["web"][0]
				var wait sync.WaitGroup
				defer wait.Wait()
				for _, inner := range []bool{false, true} {
					a, header := family(to.at, inner), 28
					if inner {
						header = 48
					}
					for size := 1200; size <= int(from.at.MTU); size += 110 {
						require.NoError(t, unholed(from, a, size-header), "a packet of %d bytes, IPv6 %v", size, inner)
					}
					require.NoError(t, unholed(from, a, int(from.at.MTU)-header))
					require.NoError(t, from.transfer(netip.AddrPortFrom(a, echoPort), 4<<20))
				}
			})
		}
	}
}

// unholed wants a large packet that must not be cut to arrive, or its sender to be
// told that it is too large; a sender that was told may try again with less.
func unholed(from *container, to netip.Addr, payload int) error {
	out, err := from.run("ping", "-n", "-c", "1", "-W", "10", "-M", "do", "-s", fmt.Sprint(payload), to.String())
	for _, told := range []string{"Frag needed", "too long", "Packet too big", "too big"} {
		if strings.Contains(out, told) {
			return nil
		}
	}
	return err
}
