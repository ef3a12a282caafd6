package overlay_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// A bindIn is wireguard-go's sockets in a namespace, whichever of its goroutines
// opens them.
type bindIn struct {
	conn.Bind
	ns *testnet.Namespace
}

func (b bindIn) Open(port uint16) (fns []conn.ReceiveFunc, actual uint16, err error) {
	b.ns.Do(func() { fns, actual, err = b.Bind.Open(port) })
	return fns, actual, err
}

// newJudgeTUN is wireguard-go's device on its TUN in a namespace.
func newJudgeTUN(t testing.TB, ns *testnet.Namespace, mtu int, addrs ...string) *judge {
	j := &judge{key: newKey(t)}
	ns.Do(func() {
		dev, err := tun.CreateTUN("wg0", mtu)
		require.NoError(t, err)
		j.device = device.NewDevice(dev, bindIn{conn.NewDefaultBind(), ns}, device.NewLogger(device.LogLevelSilent, ""))
	})
	t.Cleanup(j.device.Close)
	require.NoError(t, j.device.IpcSet(fmt.Sprintf("private_key=%x\n", j.key[:])))
	require.NoError(t, j.device.Up())
	commands := [][]string{{"link", "set", "wg0", "up"}}
	for _, a := range addrs {
		commands = append(commands, []string{"addr", "add", a, "dev", "wg0", "nodad"}) // IPv4 ignores the last
	}
	for _, args := range commands {
		out, err := ns.Command("ip", args...).CombinedOutput()
		require.NoError(t, err, "ip %v: %s", args, out)
	}
	// The kernel takes packets to an IPv6 address as its own some time after it was
	// given (addrconf_dad_work), and until then drops them.
	require.Eventually(t, func() bool {
		out, _ := ns.Command("ip", "-6", "route", "show", "table", "local", "dev", "wg0").Output()
		for _, a := range addrs {
			if p := netip.MustParsePrefix(a).Addr(); p.Is6() && !strings.Contains(string(out), p.String()+" ") {
				return false
			}
		}
		return true
	}, 30*time.Second, 10*time.Millisecond)
	return j
}

func TestInteropFromTUNToTUN(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		for _, test := range []struct {
			name      string
			mtu       int
			endpoints string // of the underlay
			judge     bool   // begins
		}{
			{"MTU 1420 over IPv4, ours begins", 1420, "192.0.2.%d", false},
			{"MTU 1420 over IPv6, theirs begins", 1420, "2001:db8::%d", true},
			{"MTU 1280 over IPv4, theirs begins", 1280, "192.0.2.%d", true},
			{"MTU 1280 over IPv6, ours begins", 1280, "2001:db8::%d", false},
		} {
			t.Run(test.name, func(t *testing.T) {
				spaces := [3]*testnet.Namespace{1: testnet.NewNamespace(t), 2: testnet.NewNamespace(t)}
				var ports [3]testnet.Port
				for i := 1; i <= 2; i++ {
					ports[i] = testnet.Port{Namespace: spaces[i], Name: "eth0", Addrs: []netip.Prefix{
						netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", i)),
						netip.MustParsePrefix(fmt.Sprintf("2001:db8::%d/64", i)),
					}}
				}
				require.NoError(t, testnet.Veth(ports[1], ports[2]))
				endpoint := func(i int, port uint16) string {
					return net.JoinHostPort(fmt.Sprintf(test.endpoints, i), strconv.Itoa(int(port)))
				}

				var ours *overlay.Node
				spaces[1].Do(func() {
					dev, err := overlay.OpenTUN(overlay.TUNConfig{MTU: test.mtu, Addrs: prefixes("10.9.0.1/24", "fd09::1/64")})
					require.NoError(t, err)
					ours, err = overlay.New(overlay.Config{PrivateKey: newKey(t), Device: dev, Engine: engine, Logger: quiet()})
					if err != nil {
						dev.Close()
					}
					require.NoError(t, err)
				})
				t.Cleanup(func() { require.NoError(t, ours.Close()) })
				theirs := newJudgeTUN(t, spaces[2], test.mtu, "10.9.0.2/24", "fd09::2/64")

				psk := secret(t)
				peer := overlay.Peer{
					PublicKey: theirs.public(), PresharedKey: psk, AllowedIPs: prefixes("10.9.0.2/32", "fd09::2/128"),
				}
				var at string
				if test.judge {
					at = endpoint(1, ours.ListenPort())
				} else {
					peer.Endpoint = endpoint(2, theirs.port())
				}
				require.NoError(t, ours.SetPeer(t.Context(), peer))
				theirs.know(t, &rootless{Node: ours, n: 1}, at, psk)

				order := [2]int{1, 2}
				if test.judge {
					order = [2]int{2, 1}
				}
				for _, way := range [][2]int{order, {order[1], order[0]}} {
					for _, six := range []bool{false, true} {
						to := hostAddr(way[1], six)
						for _, size := range []string{"56", "1200", "4000"} { // the last in fragments
							out, err := spaces[way[0]].Command("ping", "-c", "2", "-i", "0.01", "-W", "30", "-s", size, to.String()).CombinedOutput()
							require.NoError(t, err, "%s", out)
						}
						transferIn(t, spaces[way[0]], spaces[way[1]], to)
					}
				}
				require.WithinDuration(t, time.Now(), ours.Peers()[0].LastHandshake, time.Minute)
			})
		}
	})
}

// transferIn sends 4 MiB over TCP from one namespace to an address in another,
// and checks them.
func transferIn(t *testing.T, from, to *testnet.Namespace, addr netip.Addr) {
	t.Helper()
	var listener net.Listener
	var client net.Conn
	var err error
	to.Do(func() { listener, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String()) })
	require.NoError(t, err)
	defer listener.Close()
	received := make(chan []byte, 1)
	go func() {
		defer close(received)
		server, err := listener.Accept()
		if err != nil {
			return
		}
		defer server.Close()
		hash := sha256.New()
		if _, err := io.Copy(hash, server); err == nil {
			received <- hash.Sum(nil)
		}
	}()
	from.Do(func() { client, err = net.DialTimeout("tcp", listener.Addr().String(), 30*time.Second) })
	require.NoError(t, err)
	defer client.Close()
	client.SetDeadline(time.Now().Add(60 * time.Second))
	hash := sha256.New()
	_, err = io.CopyN(io.MultiWriter(client, hash), rand.NewChaCha8([32]byte{}), 4<<20)
	require.NoError(t, err)
	require.NoError(t, client.(*net.TCPConn).CloseWrite())
	require.Equal(t, hash.Sum(nil), <-received)
}
