package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

// nowhere knows no names.
type nowhere struct{}

func (nowhere) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func TestAnErrorOnAPeerOfAListSaysWhich(t *testing.T) {
	d := newRootless(t)
	d.resolver = newResolver()
	d.resolver.system = nowhere{}
	v := d.global.load().device
	guest := overlay.PublicKey{7}
	v.guests = map[overlay.PublicKey]overlay.Peer{guest: {PublicKey: guest}}
	key := overlay.PublicKey{3}.String()
	good := wire.PeerSpec{PublicKey: overlay.PublicKey{1}.String(), Endpoint: "192.0.2.1:51420", AllowedIPs: "10.200.8.0/24"}
	for name, c := range map[string]struct {
		spec  wire.PeerSpec
		field string
		says  string
	}{
		"a key that is none":           {wire.PeerSpec{PublicKey: "k"}, "public_key", "of peer k: is not a public key"},
		"no key":                       {wire.PeerSpec{}, "public_key", `of peer "": is not a public key`},
		"a key with control character": {wire.PeerSpec{PublicKey: "k\n"}, "public_key", `of peer "k\n": is not a public key`},
		"the same key twice":           {wire.PeerSpec{PublicKey: good.PublicKey}, "public_key", good.PublicKey + " is that of peers[0] already"},
		"the key of a guest":           {wire.PeerSpec{PublicKey: guest.String()}, "public_key", guest.String() + " is a guest of this node"},
		"an endpoint that is none":     {wire.PeerSpec{PublicKey: key, Endpoint: "192.0.2.1"}, "endpoint", "of peer AwAAAAAA…: \"192.0.2.1\""},
		"an endpoint with a zone":      {wire.PeerSpec{PublicKey: key, Endpoint: "[2001:db8::1%eth0]:1"}, "endpoint", "of peer AwAAAAAA…: \"[2001:db8::1%eth0]:1\" has a zone"},
		"a name that nobody knows":     {wire.PeerSpec{PublicKey: key, Endpoint: "no.invalid:1"}, "endpoint", "of peer AwAAAAAA…: \"no.invalid:1\" cannot be looked up now: try again, or give an address"},
		"a prefix that is none":        {wire.PeerSpec{PublicKey: key, AllowedIPs: "10.200.9.0/33"}, "allowed_ips", "of peer AwAAAAAA…: \"10.200.9.0/33\""},
		"a prefix of another":          {wire.PeerSpec{PublicKey: key, AllowedIPs: good.AllowedIPs}, "allowed_ips", good.AllowedIPs + " of peer"},
		"too long a keepalive":         {wire.PeerSpec{PublicKey: key, Keepalive: 1 << 20}, "persistent_keepalive_secs", "of peer AwAAAAAA…: is 1048576"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.handle(t.Context(), wire.SetPeers{Peers: []wire.PeerSpec{good, c.spec}})
			e, ok := errors.AsType[*Error](err)
			require.True(t, ok, "%v", err)
			// Of two that clash either may be told, since neither is the first.
			at := strings.Replace(e.Field, "peers[0]", "peers[1]", 1)
			require.Equal(t, "peers[1]."+c.field, at)
			require.True(t, strings.HasPrefix(err.Error(), e.Field+": "), "%v", err)
			require.Contains(t, err.Error(), c.says)
			require.Equal(t, e.Field, reply(err).Field)
		})
	}
	// Of a request on one peer it is clear which.
	_, err := d.handle(t.Context(), wire.AddPeer{PeerSpec: wire.PeerSpec{PublicKey: key, Endpoint: "no.invalid:1"}})
	require.ErrorIs(t, err, wire.NotReady)
	require.ErrorContains(t, err, `endpoint: "no.invalid:1" cannot be looked up now`)
}

func TestManyNamesThatNobodyKnowsAreOneError(t *testing.T) {
	r := newResolver()
	r.system = nowhere{}
	var endpoints []string
	for i := range 2000 {
		endpoints = append(endpoints, strings.Repeat("a", 1+i%50)+strings.Repeat("b", 1+i/50)+".invalid:1")
	}
	err := r.prepare(t.Context(), append([]string{"192.0.2.1:1"}, endpoints...)...)
	require.ErrorContains(t, err, `"ab.invalid:1"`)
	require.Less(t, len(err.Error()), 200)
}

func TestPeersTakeNoMoreRoomThanAnAnswerHas(t *testing.T) {
	d := newRootless(t)
	d.resolver = newResolver()
	v := d.global.load().device
	v.at = make(map[overlay.PublicKey][]netip.Addr)
	v.unresolved = make(map[overlay.PublicKey]bool)
	peer := func(n int) wire.PeerSpec {
		var many []string
		for i := range maxPrefixes {
			many = append(many, fmt.Sprintf("fd00:2222:3333:%x:%x:ffff:ffff:0/112", 0x1000+n, 0x1000+i)) // all of one length
		}
		return wire.PeerSpec{PublicKey: overlay.PublicKey{byte(n)}.String(), AllowedIPs: strings.Join(many, ",")}
	}
	first, err := parsePeer("", peer(1))
	require.NoError(t, err)
	n := maxPeerList / listedSize(first)
	var all []wire.PeerSpec
	for i := range n {
		all = append(all, peer(i+1))
	}
	_, err = d.handle(t.Context(), wire.SetPeers{Peers: all})
	require.NoError(t, err)
	_, err = d.handle(t.Context(), wire.AddPeer{PeerSpec: peer(n + 1)})
	require.ErrorIs(t, err, wire.Exhausted)
	require.ErrorContains(t, err, "room for peers is exhausted: the list of those of the node's device would be longer")
	for _, r := range []wire.Request{wire.StatusRequest{}, wire.ListPeers{}, wire.ListPeers{Scope: wire.GlobalScope{}}} {
		res, err := d.handle(t.Context(), r)
		require.NoError(t, err)
		frame, err := wire.AppendFrame(nil, wire.ResponseFrame{ID: 1, Response: res})
		require.NoError(t, err)
		require.Greater(t, len(frame), maxPeerList/2, "it is most of it")
		require.Less(t, len(frame), maxPeerList+4096)
	}
	// What is taken away always fits, and makes room.
	_, err = d.handle(t.Context(), wire.RemovePeer{Pubkey: peer(1).PublicKey})
	require.NoError(t, err)
	_, err = d.handle(t.Context(), wire.AddPeer{PeerSpec: peer(n + 1)})
	require.NoError(t, err)
	sum := 0
	for _, p := range v.set {
		sum += listedSize(p)
	}
	require.Equal(t, sum, v.size)

	// Of all devices together there may be more than fits.
	other := &device{d: d, scope: "web", set: v.set, size: v.size}
	other.now.Store(v.now.Load())
	d.services.named = map[string]*place{"web": {}}
	d.services.named["web"].now.Store(&service{device: other})
	_, err = d.handle(t.Context(), wire.ListPeers{})
	require.ErrorIs(t, err, wire.Exhausted)
	require.ErrorContains(t, err, "ask for those of one scope at a time")
}
