package overlay_test

import (
	"bytes"
	"context"
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

	"github.com/overlayd/overlayd/netstack"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	wgnetstack "golang.zx2c4.com/wireguard/tun/netstack"
)

// A host is something with a TCP/IP stack on the overlay.
type host interface {
	public() overlay.PublicKey
	port() uint16
	addr(six bool) netip.Addr
	know(t testing.TB, peer host, endpoint string, psk overlay.PresharedKey)
	seenAt(t testing.TB, peer host) netip.AddrPort
	dial(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	listen(at netip.AddrPort) (net.Listener, error)
	dialUDP(to netip.AddrPort) (net.Conn, error)
	listenUDP(at netip.AddrPort) (net.PacketConn, error)
}

func hostAddr(n int, six bool) netip.Addr {
	if six {
		return netip.AddrFrom16([16]byte{0: 0xfd, 1: 9, 15: byte(n)})
	}
	return netip.AddrFrom4([4]byte{10, 9, 0, byte(n)})
}

// A rootless host is our node on our netstack.
type rootless struct {
	*overlay.Node
	stack *netstack.Stack
	n     int
}

func newRootless(t testing.TB, engine overlay.Engine, n, mtu int) *rootless {
	var addrs []netip.Prefix
	for _, six := range []bool{false, true} {
		addr := hostAddr(n, six)
		addrs = append(addrs, netip.PrefixFrom(addr, addr.BitLen()))
	}
	stack, err := netstack.New(netstack.Config{Addrs: addrs, MTU: mtu})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, stack.Close()) })
	node, err := overlay.New(overlay.Config{PrivateKey: newKey(t), Device: stack.Device(), Engine: engine, Logger: quiet()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, node.Close()) })
	return &rootless{node, stack, n}
}

func (h *rootless) public() overlay.PublicKey { return h.PublicKey() }
func (h *rootless) port() uint16              { return h.ListenPort() }
func (h *rootless) addr(six bool) netip.Addr  { return hostAddr(h.n, six) }

func (h *rootless) know(t testing.TB, peer host, endpoint string, psk overlay.PresharedKey) {
	p := overlay.Peer{PublicKey: peer.public(), PresharedKey: psk, Endpoint: endpoint}
	for _, six := range []bool{false, true} {
		p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(peer.addr(six), peer.addr(six).BitLen()))
	}
	require.NoError(t, h.SetPeer(t.Context(), p))
}

func (h *rootless) seenAt(t testing.TB, peer host) netip.AddrPort {
	for _, p := range h.Peers() {
		if p.PublicKey == peer.public() {
			return p.Addr
		}
	}
	require.FailNow(t, "no such peer")
	return netip.AddrPort{}
}

func (h *rootless) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return h.stack.DialContext(ctx, "tcp", to.String())
}

func (h *rootless) listen(at netip.AddrPort) (net.Listener, error) {
	return h.stack.Listen("tcp", at.String())
}

func (h *rootless) dialUDP(to netip.AddrPort) (net.Conn, error) {
	return h.stack.DialContext(context.Background(), "udp", to.String())
}

func (h *rootless) listenUDP(at netip.AddrPort) (net.PacketConn, error) {
	return h.stack.ListenPacket("udp", at.String())
}

// A judge is an implementation that shares no code with a node on our engine:
// wireguard-go's device, its netstack and its sockets.
type judge struct {
	device *device.Device
	net    *wgnetstack.Net
	key    overlay.PrivateKey
	n      int
}

func newJudge(t testing.TB, n, mtu int) *judge {
	tun, stack, err := wgnetstack.CreateNetTUN([]netip.Addr{hostAddr(n, false), hostAddr(n, true)}, nil, mtu)
	require.NoError(t, err)
	j := &judge{net: stack, key: newKey(t), n: n}
	j.device = device.NewDevice(tun, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(func() {
		j.device.RemoveAllPeers() // its netstack must not be written to while it is closed
		j.device.Close()
	})
	require.NoError(t, j.device.IpcSet(fmt.Sprintf("private_key=%x\n", j.key[:])))
	require.NoError(t, j.device.Up())
	return j
}

func (j *judge) public() overlay.PublicKey { return j.key.Public() }
func (j *judge) addr(six bool) netip.Addr  { return hostAddr(j.n, six) }

func (j *judge) port() uint16 {
	port, _ := strconv.ParseUint(j.get("listen_port"), 10, 16)
	return uint16(port)
}

// seenAt is where the one peer there is was heard.
func (j *judge) seenAt(t testing.TB, _ host) netip.AddrPort {
	addr, err := netip.ParseAddrPort(j.get("endpoint"))
	require.NoError(t, err)
	return addr
}

// get is the first value of that name in what wireguard-go tells about itself.
func (j *judge) get(name string) string {
	text, _ := j.device.IpcGet()
	for line := range strings.Lines(text) {
		if key, value, _ := strings.Cut(line, "="); key == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (j *judge) know(t testing.TB, peer host, endpoint string, psk overlay.PresharedKey) {
	key := peer.public()
	text := fmt.Sprintf("public_key=%x\npreshared_key=%x\n", key[:], psk[:])
	if endpoint != "" {
		text += "endpoint=" + endpoint + "\n"
	}
	for _, six := range []bool{false, true} {
		text += fmt.Sprintf("allowed_ip=%v/%d\n", peer.addr(six), peer.addr(six).BitLen())
	}
	require.NoError(t, j.device.IpcSet(text))
}

// rekey begins a handshake with a peer; wireguard-go does nothing within five
// seconds of the last one.
func (j *judge) rekey(t testing.TB, peer overlay.PublicKey) {
	require.NoError(t, j.device.LookupPeer(device.NoisePublicKey(peer)).SendHandshakeInitiation(false))
}

func (j *judge) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return j.net.DialContextTCPAddrPort(ctx, to)
}

func (j *judge) listen(at netip.AddrPort) (net.Listener, error) { return j.net.ListenTCPAddrPort(at) }
func (j *judge) dialUDP(to netip.AddrPort) (net.Conn, error) {
	return j.net.DialUDPAddrPort(netip.AddrPort{}, to)
}

func (j *judge) listenUDP(at netip.AddrPort) (net.PacketConn, error) {
	return j.net.ListenUDPAddrPort(at)
}

// bulk sends size bytes over TCP from one host to another and checks them.
func bulk(t testing.TB, from, to host, six bool, size int) {
	t.Helper()
	at := netip.AddrPortFrom(to.addr(six), 80)
	listener, err := to.listen(at)
	require.NoError(t, err)
	defer listener.Close()
	type result struct {
		sum []byte
		err error
	}
	received := make(chan result, 1)
	go func() {
		c, err := listener.Accept()
		if err != nil {
			received <- result{err: err}
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(60 * time.Second))
		hash := sha256.New()
		_, err = io.Copy(hash, c)
		received <- result{hash.Sum(nil), err}
	}()

	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	c, err := from.dial(ctx, at)
	require.NoError(t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(60 * time.Second))
	hash := sha256.New()
	source := io.TeeReader(rand.NewChaCha8([32]byte{byte(size)}), hash)
	_, err = io.CopyN(c, source, int64(size))
	require.NoError(t, err)
	require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
	r := <-received
	require.NoError(t, r.err)
	require.Equal(t, hash.Sum(nil), r.sum)
}

// converse sends chunks to an echo at another host over one TCP connection, and
// calls each, if there is one, before each. There is never more on its way than
// the smallest socket buffer has room for: gVisor's TCP takes seconds to recover
// from the loss of hundreds of segments in a row.
func converse(t testing.TB, from, to host, six bool, chunks int, each func(chunk int)) {
	t.Helper()
	at := netip.AddrPortFrom(to.addr(six), 7)
	listener, err := to.listen(at)
	require.NoError(t, err)
	ended := make(chan struct{})
	defer func() {
		listener.Close()
		<-ended
	}()
	go func() {
		defer close(ended)
		if c, err := listener.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := from.dial(ctx, at)
	require.NoError(t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(60 * time.Second))
	source := rand.NewChaCha8([32]byte{7})
	sent, got := make([]byte, 32<<10), make([]byte, 32<<10)
	for chunk := range chunks {
		if each != nil {
			each(chunk)
		}
		source.Read(sent)
		_, err := c.Write(sent)
		require.NoError(t, err)
		_, err = io.ReadFull(c, got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(sent, got), "chunk %d", chunk)
	}
}

// datagrams sends UDP datagrams to an echo at another host, one after the other,
// until it has been told to stop. Not one may get lost.
func datagrams(t testing.TB, from, to host, six bool, enough func(sent int) bool) {
	t.Helper()
	at := netip.AddrPortFrom(to.addr(six), 7)
	echo, err := to.listenUDP(at)
	require.NoError(t, err)
	ended := make(chan struct{})
	defer func() {
		echo.Close()
		<-ended
	}()
	go func() {
		defer close(ended)
		buf := make([]byte, 2000)
		for {
			n, peer, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			echo.WriteTo(buf[:n], peer)
		}
	}()
	c, err := from.dialUDP(at)
	require.NoError(t, err)
	defer c.Close()
	buf := make([]byte, 2000)
	for i := 0; !enough(i); i++ {
		want := bytes.Repeat([]byte{byte(i)}, i%1200+1)
		c.SetDeadline(time.Now().Add(30 * time.Second))
		_, err := c.Write(want)
		require.NoError(t, err)
		n, err := c.Read(buf)
		require.NoError(t, err, "datagram %d or its echo is lost", i)
		require.Equal(t, want, buf[:n])
	}
}

func loopback(port uint16, six bool) string {
	if six {
		return fmt.Sprintf("[::1]:%d", port)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}
