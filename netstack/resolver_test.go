package netstack

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// A nameServer answers for the names it holds, over UDP and TCP, in one stack.
type nameServer struct {
	names    map[string][]netip.Addr
	truncate bool // over UDP
	asked    atomic.Int32
}

func (d *nameServer) serve(t testing.TB, s *Stack, address string) {
	pc := listenPacket(t, s, "udp", address)
	l, err := s.Listen("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(d.answer(buf[:n], d.truncate), from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var size [2]byte
				for {
					if _, err := io.ReadFull(c, size[:]); err != nil {
						return
					}
					query := make([]byte, binary.BigEndian.Uint16(size[:]))
					if _, err := io.ReadFull(c, query); err != nil {
						return
					}
					answer := d.answer(query, false)
					c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
				}
			}()
		}
	}()
}

func (d *nameServer) answer(query []byte, truncate bool) []byte {
	d.asked.Add(1)
	var q dnsmessage.Message
	if q.Unpack(query) != nil || len(q.Questions) != 1 {
		return nil
	}
	a := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: q.ID, Response: true, Authoritative: true, RecursionAvailable: true, Truncated: truncate},
		Questions: q.Questions,
	}
	addrs, known := d.names[strings.ToLower(q.Questions[0].Name.String())]
	if !known {
		a.RCode = dnsmessage.RCodeNameError
	}
	for _, addr := range addrs {
		h := dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 5}
		switch {
		case truncate:
		case addr.Is4() && q.Questions[0].Type == dnsmessage.TypeA:
			a.Answers = append(a.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: addr.As4()}})
		case addr.Is6() && q.Questions[0].Type == dnsmessage.TypeAAAA:
			a.Answers = append(a.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	packed, _ := a.Pack()
	return packed
}

func dnsAt(p netip.Prefix) netip.AddrPort { return netip.AddrPortFrom(p.Addr(), 0) }

func TestNamesAreResolvedThroughTheStack(t *testing.T) {
	for _, truncate := range []bool{false, true} {
		a, b := newPair(t)
		server := &nameServer{truncate: truncate, names: map[string][]netip.Addr{
			"web.overlay.internal.": {addrB4.Addr(), addrB6.Addr()},
		}}
		server.serve(t, b, ":53")
		require.NoError(t, a.SetDNS([]netip.AddrPort{dnsAt(addrB4)}))
		got, err := a.Resolver().LookupNetIP(testContext(t), "ip", "web.overlay.internal.")
		require.NoError(t, err)
		for i := range got {
			got[i] = got[i].Unmap()
		}
		require.ElementsMatch(t, []netip.Addr{addrB4.Addr(), addrB6.Addr()}, got)
		l, err := b.Listen("tcp", ":80")
		require.NoError(t, err)
		defer l.Close()
		for network, want := range map[string]int{"tcp": 0, "tcp4": 4, "tcp6": 6} {
			c, err := a.DialContext(testContext(t), network, "web.overlay.internal:80")
			require.NoError(t, err)
			if want != 0 {
				require.Equal(t, want == 4, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().Is4())
			}
			require.NoError(t, c.Close())
		}
		u, err := a.DialContext(testContext(t), "udp", "WEB.overlay.internal.:53")
		require.NoError(t, err)
		require.NoError(t, u.Close())
		var dns *net.DNSError
		_, err = a.DialContext(testContext(t), "tcp", "nobody.overlay.internal:80")
		require.ErrorAs(t, err, &dns)
		require.True(t, dns.IsNotFound)
	}
}

func TestASilentDNSServerIsPassedOver(t *testing.T) {
	a, b := newPair(t)
	server := &nameServer{names: map[string][]netip.Addr{"web.overlay.internal.": {addrB4.Addr()}}}
	server.serve(t, b, ":5353")
	silent := listenPacket(t, b, "udp", ":53")
	require.NoError(t, a.SetDNS([]netip.AddrPort{
		netip.MustParseAddrPort("10.200.9.9:53"), // nobody
		dnsAt(addrB6),
		netip.AddrPortFrom(addrB4.Addr(), 5353),
	}))
	got, err := a.Resolver().LookupHost(testContext(t), "web.overlay.internal.")
	require.NoError(t, err)
	require.Equal(t, []string{addrB4.Addr().String()}, got)
	require.NoError(t, silent.SetReadDeadline(testDeadline(t)))
	_, _, err = silent.ReadFrom(make([]byte, 1))
	require.NoError(t, err, "the second was asked before the third")
}

func TestDNSServersChangeAtRunTime(t *testing.T) {
	a, b := newPair(t)
	_, err := a.DialContext(testContext(t), "tcp", "web.overlay.internal:80")
	require.ErrorContains(t, err, errNoServers.Error())
	first := &nameServer{names: map[string][]netip.Addr{"x.internal.": {netip.MustParseAddr("10.200.1.1")}}}
	second := &nameServer{names: map[string][]netip.Addr{"x.internal.": {netip.MustParseAddr("10.200.2.2")}}}
	first.serve(t, b, ":53")
	second.serve(t, b, ":54")
	lookup := func() string {
		got, err := a.Resolver().LookupHost(testContext(t), "x.internal.")
		require.NoError(t, err)
		return got[0]
	}
	require.NoError(t, a.SetDNS([]netip.AddrPort{dnsAt(addrB4)}))
	require.Equal(t, "10.200.1.1", lookup())
	require.NoError(t, a.SetDNS([]netip.AddrPort{netip.AddrPortFrom(addrB6.Addr(), 54)}))
	require.Equal(t, "10.200.2.2", lookup())
	require.Error(t, a.SetDNS([]netip.AddrPort{{}}))
	require.Equal(t, "10.200.2.2", lookup())
}

func TestOnlyFamiliesTheStackHasAreAskedFor(t *testing.T) {
	a, b := newPair(t)
	server := &nameServer{names: map[string][]netip.Addr{"web.internal.": {addrB4.Addr(), addrB6.Addr()}}}
	server.serve(t, b, ":53")
	require.NoError(t, a.SetDNS([]netip.AddrPort{dnsAt(addrB4)}))
	require.NoError(t, a.SetAddrs([]netip.Prefix{addrA4}))
	got, err := a.lookup(testContext(t), "tcp", "web.internal")
	require.NoError(t, err)
	require.Equal(t, []netip.Addr{addrB4.Addr()}, got)
	require.EqualValues(t, 1, server.asked.Load())
}

func TestADialPassesOverAnAddressNobodyHas(t *testing.T) {
	a, b := newPair(t)
	nobody := netip.MustParseAddr("10.200.9.9")
	server := &nameServer{names: map[string][]netip.Addr{
		"silent.internal.":  {nobody, addrB4.Addr()},
		"refused.internal.": {addrA4.Addr(), addrB4.Addr()},
		"none.internal.":    {nobody, netip.MustParseAddr("10.200.9.8")},
	}}
	server.serve(t, b, ":53")
	require.NoError(t, a.SetDNS([]netip.AddrPort{dnsAt(addrB4)}))
	l, err := b.Listen("tcp", ":80")
	require.NoError(t, err)
	defer l.Close()
	for _, name := range []string{"silent", "refused"} {
		c, err := a.DialContext(testContext(t), "tcp", name+".internal:80")
		require.NoError(t, err)
		require.Equal(t, addrPort(addrB4, "80"), c.RemoteAddr().String())
		require.NoError(t, c.Close())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*attemptDelay)
	defer cancel()
	_, err = a.DialContext(ctx, "tcp", "none.internal:80")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestTheFamiliesTakeTurns(t *testing.T) {
	a, b := newPair(t)
	var addrs []netip.Addr
	for _, s := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"} {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	server := &nameServer{names: map[string][]netip.Addr{"many.internal.": addrs}}
	server.serve(t, b, ":53")
	require.NoError(t, a.SetDNS([]netip.AddrPort{dnsAt(addrB4)}))
	got, err := a.lookup(testContext(t), "tcp", "many.internal")
	require.NoError(t, err)
	require.Len(t, got, 4)
	require.LessOrEqual(t, slices.IndexFunc(got, netip.Addr.Is6), 1)
}
