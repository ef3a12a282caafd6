package daemon_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// inNetwork runs f in a network namespace, on the calling goroutine.
func inNetwork(t testing.TB, path string, f func()) {
	t.Helper()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	require.NoError(t, err)
	defer home.Close()
	there, err := os.Open(path)
	require.NoError(t, err)
	defer there.Close()
	require.NoError(t, unix.Setns(int(there.Fd()), unix.CLONE_NEWNET))
	defer func() {
		// A thread that cannot come back stays bound, and ends with its goroutine.
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// echoPort is where containers answer, over TCP and UDP.
const echoPort = 7

// echo answers in a container until the test ends: what comes is sent back.
func (c *container) echo() {
	c.t.Helper()
	var l net.Listener
	var p net.PacketConn
	var errTCP, errUDP error
	c.in(func() {
		l, errTCP = net.Listen("tcp", fmt.Sprintf(":%d", echoPort))
		p, errUDP = net.ListenPacket("udp", fmt.Sprintf(":%d", echoPort))
	})
	require.NoError(c.t, errTCP)
	require.NoError(c.t, errUDP)
	c.t.Cleanup(func() { l.Close(); p.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			p.WriteTo(buf[:n], from)
		}
	}()
}

// dial connects from a container. The address must be a literal one.
func (c *container) dial(network string, to netip.AddrPort) (net.Conn, error) {
	var conn net.Conn
	var err error
	c.in(func() { conn, err = (&net.Dialer{Timeout: 20 * time.Second}).Dial(network, to.String()) })
	return conn, err
}

// say sends a line over a new connection and wants it back. Over UDP it is sent
// again when nothing comes back, as the first packet may be lost while a session
// is made.
func (c *container) say(network string, to netip.AddrPort) error {
	conn, err := c.dial(network, to)
	if err != nil {
		return fmt.Errorf("from %s: %w", c.name, err)
	}
	defer conn.Close()
	line := []byte(fmt.Sprintf("%s says hello to %s over %s", c.name, to, network))
	back := make([]byte, len(line))
	patience := 5 * time.Second
	if network == "tcp" {
		patience = 20 * time.Second
	}
	for try := 0; ; try++ {
		if _, err = conn.Write(line); err == nil {
			conn.SetReadDeadline(time.Now().Add(patience))
			_, err = io.ReadFull(conn, back)
		}
		if err == nil && bytes.Equal(line, back) {
			return nil
		}
		if network == "tcp" || try == 2 {
			return fmt.Errorf("from %s over %s to %s: %v, and %q came back", c.name, network, to, err, back)
		}
	}
}

// ping sends an echo request of ICMP by ping(8), and a second one if need be: the
// first may be lost while a session is made.
func (c *container) ping(to netip.Addr, args ...string) error {
	args = append([]string{"-n", "-q", "-c", "1", "-W", "5"}, append(args, to.String())...)
	_, err := c.run("ping", args...)
	if err != nil {
		_, err = c.run("ping", args...)
	}
	return err
}

// lookup asks a name server for the addresses of a name.
func (c *container) lookup(network string, server netip.Addr, name string, kind uint16) ([]netip.Addr, error) {
	conn, err := c.dial(network, netip.AddrPortFrom(server, 53))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	co := &dns.Conn{Conn: conn}
	if err := co.WriteMsg(new(dns.Msg).SetQuestion(name+".", kind)); err != nil {
		return nil, err
	}
	answer, err := co.ReadMsg()
	if err != nil {
		return nil, fmt.Errorf("%s asks %s for %s: %w", c.name, server, name, err)
	}
	var addrs []netip.Addr
	for _, record := range answer.Answer {
		switch record := record.(type) {
		case *dns.A:
			a, _ := netip.AddrFromSlice(record.A.To4())
			addrs = append(addrs, a)
		case *dns.AAAA:
			a, _ := netip.AddrFromSlice(record.AAAA)
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}

// dig asks a name server as a person would, by dig(1).
func (c *container) dig(args ...string) (string, error) {
	out, err := c.run("dig", append([]string{"+short", "+time=10", "+tries=2"}, args...)...)
	return strings.TrimSpace(out), err
}

// transfer sends bytes from a container to the echo of another and back at once,
// and compares what came with what went.
func (c *container) transfer(to netip.AddrPort, size int64) error {
	conn, err := c.dial("tcp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute + time.Duration(size>>20)*100*time.Millisecond))
	sent, got := sha256.New(), sha256.New()
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.MultiWriter(conn, sent), rand.NewChaCha8([32]byte{1}), size)
		done <- err
	}()
	if _, err := io.CopyN(got, conn, size); err != nil {
		conn.Close()
		<-done
		return fmt.Errorf("from %s to %s: %w", c.name, to, err)
	}
	if err := <-done; err != nil {
		return fmt.Errorf("from %s to %s: %w", c.name, to, err)
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		return fmt.Errorf("from %s to %s: %d bytes came back changed", c.name, to, size)
	}
	return nil
}

// A stream is a connection over which something is said and answered all the time.
type stream struct {
	conn net.Conn
	stop context.CancelFunc
	done chan error
	gap  time.Duration // the longest time between two answers
	said atomic.Int64
}

// stream begins a stream to the echo of another container.
func (c *container) stream(to netip.AddrPort) *stream {
	c.t.Helper()
	conn, err := c.dial("tcp", to)
	require.NoError(c.t, err)
	ctx, stop := context.WithCancel(context.Background())
	s := &stream{conn: conn, stop: stop, done: make(chan error, 1)}
	go func() {
		defer conn.Close()
		last := time.Now()
		for line, back := []byte("still here"), make([]byte, 10); ctx.Err() == nil; {
			conn.SetDeadline(time.Now().Add(time.Minute))
			if _, err := conn.Write(line); err != nil {
				s.done <- err
				return
			}
			if _, err := io.ReadFull(conn, back); err != nil {
				s.done <- err
				return
			}
			now := time.Now()
			s.gap, last = max(s.gap, now.Sub(last)), now
			s.said.Add(1)
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Millisecond):
			}
		}
		s.done <- nil
	}()
	c.t.Cleanup(func() { stop(); conn.Close() })
	return s
}

// end ends the stream and says how it went.
func (s *stream) end() (gap time.Duration, err error) {
	s.stop()
	err = <-s.done
	return s.gap, err
}

// count is how often something was said and answered.
func (s *stream) count() int64 { return s.said.Load() }

// await waits until the stream has gone on to a count.
func (s *stream) await(t *testing.T, count int64) {
	t.Helper()
	require.Eventually(t, func() bool { return s.count() >= count }, time.Minute, time.Millisecond, "a connection from %s to %s is stuck",
		s.conn.LocalAddr(), s.conn.RemoteAddr())
}
