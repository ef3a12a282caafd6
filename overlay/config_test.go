package overlay_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/overlay"
	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	good := testnet.NewDevice("good", 1420, 1)
	good.Put(0, testnet.UDP(netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:2"), nil), 0)
	taken, err := net.ListenUDP("udp4", nil)
	require.NoError(t, err)
	defer taken.Close()
	port := taken.LocalAddr().(*net.UDPAddr).AddrPort().Port()

	for _, test := range []struct {
		name, field, says string
		cfg               overlay.Config
		is                error
	}{
		{"a missing private key", "PrivateKey", "required", overlay.Config{Device: good}, nil},
		{"a missing device", "Device", "required", overlay.Config{PrivateKey: key}, nil},
		{"a device with too small an MTU", "Device.MTU", `"575": must be from 576 to 65475`,
			overlay.Config{PrivateKey: key, Device: testnet.NewDevice("small", 575, 1)}, nil},
		{"a device with too large an MTU", "Device.MTU", `"65476": must be from 576 to 65475`,
			overlay.Config{PrivateKey: key, Device: testnet.NewDevice("large", 65476, 1)}, nil},
		{"a device without lanes", "Device.Lanes", `"0": must be at least 1`,
			overlay.Config{PrivateKey: key, Device: testnet.NewDevice("none", 1420, 0)}, nil},
		{"a stage that is nil", "Stages[1]", "is nil",
			overlay.Config{PrivateKey: key, Device: good, Stages: []packet.Stage{&recorder{}, nil}}, nil},
		{"an unknown engine", "Engine", `"engine(250)"`, overlay.Config{PrivateKey: key, Device: good, Engine: 250}, nil},
		{"a port in use", "ListenPort", fmt.Sprintf("%q", fmt.Sprint(port)),
			overlay.Config{PrivateKey: key, Device: good, ListenPort: port}, syscall.EADDRINUSE},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.cfg.Logger = quiet()
			_, err := overlay.New(test.cfg)
			var configErr *overlay.ConfigError
			require.ErrorAs(t, err, &configErr)
			require.Equal(t, test.field, configErr.Field)
			require.True(t, configErr.Peer.IsZero())
			require.ErrorContains(t, err, test.says)
			if test.is != nil {
				require.ErrorIs(t, err, test.is)
			}
		})
	}

	for _, engine := range engines {
		_, err = overlay.New(overlay.Config{PrivateKey: key, Device: good, Engine: engine, ListenPort: port, Logger: quiet()})
		require.ErrorIs(t, err, syscall.EADDRINUSE, engine.String())
	}

	require.False(t, good.Closed(), "the device is still the caller's")
	b := packet.NewBatch(0)
	require.NoError(t, good.ReadBatch(b))
	require.Len(t, b.Packets, 1, "and nothing was read from it")
}

func TestAMarkWantsACapability(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		dev := testnet.NewDevice("marked", 1420, 1)
		node, err := overlay.New(overlay.Config{PrivateKey: newKey(t), Device: dev, Engine: engine, FwMark: 1 << 31, Logger: quiet()})
		if err != nil { // as an ordinary user
			var configErr *overlay.ConfigError
			require.ErrorAs(t, err, &configErr)
			require.Equal(t, "FwMark", configErr.Field)
			require.Equal(t, "2147483648", configErr.Value)
			require.ErrorIs(t, err, fs.ErrPermission)
			require.False(t, dev.Closed())
			return
		}
		require.NoError(t, node.Close())
	})
}

func TestSettingsOfPeersThatAreRefused(t *testing.T) {
	t.Parallel()
	node := newSide(t, overlay.EngineDefault, 1)
	kept := newPeer(t, "10.1.0.0/16")
	require.NoError(t, node.SetPeer(t.Context(), kept))
	key := newKey(t).Public()

	for _, test := range []struct {
		name, field, says string
		peer              overlay.Peer
	}{
		{"no public key", "PublicKey", "required", overlay.Peer{}},
		{"the node's own key", "PublicKey", "own", overlay.Peer{PublicKey: node.PublicKey()}},
		{"a negative keepalive", "Keepalive", `"-1s"`, overlay.Peer{PublicKey: key, Keepalive: -time.Second}},
		{"a keepalive above 16 bits of seconds", "Keepalive", "whole seconds from 0 to 18h12m15s", overlay.Peer{PublicKey: key, Keepalive: 65536 * time.Second}},
		{"a keepalive of a fraction of a second", "Keepalive", `"1.5s"`, overlay.Peer{PublicKey: key, Keepalive: 1500 * time.Millisecond}},
		{"a prefix that is none", "AllowedIPs", "address/length", overlay.Peer{PublicKey: key, AllowedIPs: make([]netip.Prefix, 1)}},
		{"a prefix longer than its address", "AllowedIPs", "address/length",
			overlay.Peer{PublicKey: key, AllowedIPs: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("10.0.0.1"), 33)}}},
		{"an IPv4-mapped prefix that holds more than IPv4", "AllowedIPs", "IPv4-mapped",
			overlay.Peer{PublicKey: key, AllowedIPs: prefixes("::ffff:0.0.0.0/95")}},
		{"an endpoint without a port", "Endpoint", `"192.0.2.1": missing port in address: want host:port`, overlay.Peer{PublicKey: key, Endpoint: "192.0.2.1"}},
		{"an endpoint with port 0", "Endpoint", "1 to 65535", overlay.Peer{PublicKey: key, Endpoint: "192.0.2.1:0"}},
		{"an endpoint with a port out of range", "Endpoint", "1 to 65535", overlay.Peer{PublicKey: key, Endpoint: "192.0.2.1:65536"}},
		{"an endpoint with a service's name for a port", "Endpoint", "1 to 65535", overlay.Peer{PublicKey: key, Endpoint: "192.0.2.1:domain"}},
		{"an endpoint with an IPv6 address without brackets", "Endpoint", "[v6 address]:port", overlay.Peer{PublicKey: key, Endpoint: "2001:db8::1:51820"}},
		{"an endpoint without a host", "Endpoint", "neither", overlay.Peer{PublicKey: key, Endpoint: ":51820"}},
		{"an endpoint that is the unspecified address", "Endpoint", "nothing can be sent", overlay.Peer{PublicKey: key, Endpoint: "0.0.0.0:51820"}},
		{"an endpoint that is a multicast address", "Endpoint", "nothing can be sent", overlay.Peer{PublicKey: key, Endpoint: "[ff02::1]:51820"}},
		{"an endpoint that is the broadcast address", "Endpoint", "nothing can be sent", overlay.Peer{PublicKey: key, Endpoint: "255.255.255.255:51820"}},
		{"an endpoint with a mistyped address", "Endpoint", "neither", overlay.Peer{PublicKey: key, Endpoint: "192.0.2.256:51820"}},
		{"an endpoint with a space in its name", "Endpoint", "neither", overlay.Peer{PublicKey: key, Endpoint: "hub example:51820"}},
		{"an endpoint with a line break in its name", "Endpoint", "neither", overlay.Peer{PublicKey: key, Endpoint: "hub\nremove=true:51820"}},
		{"an endpoint with an empty label", "Endpoint", "neither", overlay.Peer{PublicKey: key, Endpoint: "hub..example:51820"}},
		{"an endpoint with a label that ends in a hyphen", "Endpoint", "neither", overlay.Peer{PublicKey: key, Endpoint: "hub-.example:51820"}},
		{"an endpoint with a label too long", "Endpoint", "neither", overlay.Peer{PublicKey: key, Endpoint: strings.Repeat("a", 64) + ".example:51820"}},
		{"an endpoint with a name too long", "Endpoint", "neither", overlay.Peer{PublicKey: key, Endpoint: strings.Repeat("a.", 127) + "example:51820"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			check := func(err error) {
				t.Helper()
				var configErr *overlay.ConfigError
				require.ErrorAs(t, err, &configErr)
				require.Equal(t, test.field, configErr.Field)
				require.Equal(t, test.peer.PublicKey, configErr.Peer)
				require.ErrorContains(t, err, test.says)
				require.Len(t, node.Peers(), 1, "nothing has changed")
				require.Equal(t, kept.AllowedIPs, node.peer(t, kept.PublicKey).AllowedIPs)
			}
			check(node.SetPeer(t.Context(), test.peer))
			check(node.SetPeers(t.Context(), []overlay.Peer{newPeer(t), test.peer}))
			switch test.field {
			case "Endpoint":
				check(node.SetEndpoint(t.Context(), test.peer.PublicKey, test.peer.Endpoint))
			case "AllowedIPs":
				check(node.Allow(test.peer.PublicKey, test.peer.AllowedIPs[0]))
				check(node.Disallow(test.peer.PublicKey, test.peer.AllowedIPs[0]))
			}
		})
	}

	t.Run("a peer given twice", func(t *testing.T) {
		p := newPeer(t)
		err := node.SetPeers(t.Context(), []overlay.Peer{p, newPeer(t), p})
		var configErr *overlay.ConfigError
		require.ErrorAs(t, err, &configErr)
		require.Equal(t, p.PublicKey, configErr.Peer)
		require.ErrorContains(t, err, "twice")
		require.Len(t, node.Peers(), 1)
	})
	t.Run("no endpoint for SetEndpoint", func(t *testing.T) {
		require.ErrorContains(t, node.SetEndpoint(t.Context(), kept.PublicKey, ""), "required")
	})
	t.Run("an endpoint for a peer the node does not have", func(t *testing.T) {
		require.ErrorIs(t, node.SetEndpoint(t.Context(), key, "127.0.0.1:1"), overlay.ErrUnknownPeer)
	})
}

func TestErrorsHoldNoSecret(t *testing.T) {
	t.Parallel()
	node := newSide(t, overlay.EngineDefault, 1)
	p := newPeer(t)
	p.PresharedKey = overlay.PresharedKey(newKey(t))
	p.Endpoint = "nonsense"
	err := node.SetPeer(t.Context(), p)
	require.Error(t, err)
	for _, form := range []string{fmt.Sprintf("%x", p.PresharedKey[:]), overlay.PublicKey(p.PresharedKey).String()} {
		for ; err != nil; err = errors.Unwrap(err) {
			require.NotContains(t, fmt.Sprintf("%v %+v", err, err), form)
		}
	}
}
