package overlay_test

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

// A tunSide is a node on a TUN in a namespace of its own.
type tunSide struct {
	*overlay.Node
	ns *testnet.Namespace
}

// newTUNSides joins two namespaces by a cable and, over it, by an overlay:
//
//	        10.200.0.1  fd00:200::1               10.200.0.2  fd00:200::2
//	side 1    ovl0 - node - eth0 ------------- eth0 - node - ovl0    side 2
//	        192.0.2.1  2001:db8::1                192.0.2.2  2001:db8::2
func newTUNSides(t testing.TB, engine overlay.Engine, mtu int, endpoint string) (a, b *tunSide) {
	t.Helper()
	var sides [2]*tunSide
	var ports [2]testnet.Port
	for i := range sides {
		ns := testnet.NewNamespace(t)
		sides[i] = &tunSide{ns: ns}
		ports[i] = testnet.Port{Namespace: ns, Name: "eth0", Addrs: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", i+1)),
			netip.MustParsePrefix(fmt.Sprintf("2001:db8::%d/64", i+1)),
		}}
	}
	require.NoError(t, testnet.Veth(ports[0], ports[1]))
	for i, s := range sides {
		s.ns.Do(func() {
			dev, err := overlay.OpenTUN(overlay.TUNConfig{MTU: mtu, Addrs: []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.200.0.%d/16", i+1)),
				netip.MustParsePrefix(fmt.Sprintf("fd00:200::%d/48", i+1)),
			}})
			require.NoError(t, err)
			s.Node, err = overlay.New(overlay.Config{PrivateKey: newKey(t), Device: dev, Engine: engine, Logger: quiet()})
			if err != nil {
				dev.Close()
			}
			require.NoError(t, err)
		})
		t.Cleanup(func() { require.NoError(t, s.Close()) })
	}
	for i, s := range sides {
		other := sides[1-i]
		p := overlay.Peer{PublicKey: other.PublicKey(), AllowedIPs: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.200.0.%d/32", 2-i)),
			netip.MustParsePrefix(fmt.Sprintf("fd00:200::%d/128", 2-i)),
		}}
		if i == 0 {
			p.Endpoint = net.JoinHostPort(endpoint, fmt.Sprint(other.ListenPort()))
		}
		require.NoError(t, s.SetPeer(t.Context(), p))
	}
	return sides[0], sides[1]
}

func TestNodesOnTUNs(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		for _, mtu := range []int{1420, 1280} {
			for _, endpoint := range []string{"192.0.2.2", "2001:db8::2"} {
				t.Run(fmt.Sprintf("MTU %d to %s", mtu, endpoint), func(t *testing.T) {
					a, b := newTUNSides(t, engine, mtu, endpoint)
					for _, to := range []string{"10.200.0.2", "fd00:200::2"} {
						for _, size := range []string{"56", "1232", "4000"} { // the last in fragments
							out, err := a.ns.Command("ping", "-c", "2", "-i", "0.01", "-W", "30", "-s", size, to).CombinedOutput()
							require.NoError(t, err, "%s", out)
						}
						transfer(t, a, b, to)
					}
				})
			}
		}
	})
}

// transfer sends data from a to b over TCP, and back from there.
func transfer(t *testing.T, a, b *tunSide, to string) {
	t.Helper()
	var listener net.Listener
	var client net.Conn
	var err error
	b.ns.Do(func() { listener, err = net.Listen("tcp", net.JoinHostPort(to, "0")) })
	require.NoError(t, err)
	defer listener.Close()
	echoed := make(chan error, 1)
	go func() {
		server, err := listener.Accept()
		if err == nil {
			defer server.Close()
			_, err = io.Copy(server, server)
		}
		echoed <- err
	}()
	a.ns.Do(func() { client, err = net.Dial("tcp", listener.Addr().String()) })
	require.NoError(t, err)
	defer client.Close()

	sent := sha256.New()
	wrote := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.MultiWriter(client, sent), rand.Reader, 4<<20)
		client.(*net.TCPConn).CloseWrite()
		wrote <- err
	}()
	received := sha256.New()
	n, err := io.Copy(received, client)
	require.NoError(t, err)
	require.NoError(t, <-wrote)
	require.NoError(t, <-echoed)
	require.EqualValues(t, 4<<20, n)
	require.Equal(t, sent.Sum(nil), received.Sum(nil))
}
