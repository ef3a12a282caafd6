package overlay

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A tunPair is two namespaces joined by a TUN in each, what is read from one
// written to the other:
//
//	ns[0]  10.200.0.1  fd00:200::1  dev[0] <-> dev[1]  10.200.0.2  fd00:200::2  ns[1]
type tunPair struct {
	ns  [2]*testnet.Namespace
	dev [2]*TUN

	tcpSegments, udpSegments atomic.Int64 // superpackets
	dropped                  atomic.Int64
	end                      func() // closes the devices and waits for the pumps
}

func newTUNPair(t testing.TB, c TUNConfig, offloads [2]tunOffloads) *tunPair {
	t.Helper()
	p := new(tunPair)
	for i := range p.ns {
		p.ns[i] = testnet.NewNamespace(t)
		c := c
		c.Addrs = tunPrefixes(fmt.Sprintf("10.200.0.%d/16", i+1), fmt.Sprintf("fd00:200::%d/48", i+1))
		c, err := c.checked()
		require.NoError(t, err)
		p.ns[i].Do(func() { p.dev[i], err = openTUNWith(c, offloads[i]) })
		require.NoError(t, err)
		t.Cleanup(func() { p.dev[i].Close() })
	}
	var pumps sync.WaitGroup
	for i, dev := range p.dev {
		for lane := range dev.Lanes() {
			pumps.Go(func() {
				if err := p.pump(dev, p.dev[1-i], lane); !errors.Is(err, net.ErrClosed) {
					t.Errorf("pump: %v", err)
				}
			})
		}
	}
	p.end = sync.OnceFunc(func() {
		p.dev[0].Close()
		p.dev[1].Close()
		pumps.Wait()
	})
	t.Cleanup(p.end)
	return p
}

func (p *tunPair) pump(from, to *TUN, lane int) error {
	b := packet.NewBatch(lane)
	for {
		if err := from.ReadBatch(b); err != nil {
			return err
		}
		for i := range b.Packets {
			pk := &b.Packets[i]
			switch {
			case pk.Seg == 0:
			case pk.Protocol() == packet.ProtocolTCP:
				p.tcpSegments.Add(1)
			default:
				p.udpSegments.Add(1)
			}
		}
		live := len(b.Packets)
		if err := to.WriteBatch(b); err != nil {
			return err
		}
		p.dropped.Add(int64(live - len(b.Packets)))
	}
}

// connect returns both ends of a TCP connection from ns[0] to ns[1].
func (p *tunPair) connect(t testing.TB, to string) (client, server net.Conn) {
	t.Helper()
	var listener net.Listener
	var err error
	p.ns[1].Do(func() { listener, err = net.Listen("tcp", net.JoinHostPort(to, "0")) })
	require.NoError(t, err)
	defer listener.Close()
	p.ns[0].Do(func() { client, err = net.Dial("tcp", listener.Addr().String()) })
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	server, err = listener.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { server.Close() })
	return client, server
}

var offloadCases = map[string][2]tunOffloads{
	"everything whole":  {allTUNOffloads, allTUNOffloads},
	"UDP cut":           {allTUNOffloads, allTUNOffloads &^ udpOffloads},
	"everything cut":    {allTUNOffloads, 0},
	"without offloads":  {0, 0},
	"with more lanes":   {allTUNOffloads, allTUNOffloads},
	"with a larger MTU": {allTUNOffloads, allTUNOffloads},
}

func eachOffloadCase(t *testing.T, test func(t *testing.T, p *tunPair, offloads [2]tunOffloads)) {
	for name, offloads := range offloadCases {
		t.Run(name, func(t *testing.T) {
			var c TUNConfig
			switch name {
			case "with more lanes":
				c.Lanes = 2
			case "with a larger MTU":
				c.MTU = 9000
			}
			p := newTUNPair(t, c, offloads)
			test(t, p, offloads)
			p.end()
		})
	}
}

func TestPingBetweenTUNs(t *testing.T) {
	p := newTUNPair(t, TUNConfig{}, [2]tunOffloads{allTUNOffloads, allTUNOffloads})
	for _, to := range []string{"10.200.0.2", "fd00:200::2"} {
		for _, size := range []string{"56", "1372", "5000"} { // the last in fragments
			out, err := p.ns[0].Command("ping", "-c", "3", "-i", "0.01", "-W", "30", "-s", size, to).CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
	}
	p.end()
	require.Zero(t, p.dropped.Load())
}

func TestTCPBetweenTUNsKeepsEveryByte(t *testing.T) {
	eachOffloadCase(t, func(t *testing.T, p *tunPair, offloads [2]tunOffloads) {
		data := [2][]byte{payload(4 << 20), payload(4<<20 + 1)}
		for _, to := range []string{"10.200.0.2", "fd00:200::2"} {
			client, server := p.connect(t, to)
			var all sync.WaitGroup
			var errs [4]error
			var sums [2][]byte
			for i, conn := range []net.Conn{client, server} {
				all.Go(func() {
					_, errs[i] = conn.Write(data[i])
					conn.(*net.TCPConn).CloseWrite()
				})
				all.Go(func() {
					hash := sha256.New()
					_, errs[2+i] = io.Copy(hash, conn)
					sums[i] = hash.Sum(nil)
				})
			}
			all.Wait()
			require.NoError(t, errors.Join(errs[:]...))
			for i := range sums {
				want := sha256.Sum256(data[1-i])
				require.Equal(t, want[:], sums[i])
			}
		}
		if offloads[0].tcp() {
			require.NotZero(t, p.tcpSegments.Load())
		} else {
			require.Zero(t, p.tcpSegments.Load())
		}
	})
}

func TestUDPBetweenTUNsKeepsEveryDatagram(t *testing.T) {
	eachOffloadCase(t, func(t *testing.T, p *tunPair, offloads [2]tunOffloads) {
		for _, to := range []string{"10.200.0.2", "fd00:200::2"} {
			var server, client net.Conn
			var err error
			p.ns[1].Do(func() {
				var conn *net.UDPConn
				conn, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(to)})
				server = conn
			})
			require.NoError(t, err)
			defer server.Close()
			require.NoError(t, server.SetDeadline(time.Now().Add(30*time.Second)))
			p.ns[0].Do(func() { client, err = net.Dial("udp", server.LocalAddr().String()) })
			require.NoError(t, err)
			defer client.Close()

			// One call with UDP_SEGMENT is so many datagrams, the last a short one.
			const size, count, last = 1000, 20, 500
			require.NoError(t, setSegment(client, size))
			buf := make([]byte, 2*size)
			for round := range 10 {
				message := payload(size*(count-1) + last)
				binary.BigEndian.PutUint32(message, uint32(round))
				_, err = client.Write(message)
				require.NoError(t, err)
				for len(message) > 0 {
					n, err := server.(*net.UDPConn).Read(buf)
					require.NoError(t, err)
					want := message[:min(size, len(message))]
					require.True(t, bytes.Equal(want, buf[:n]))
					message = message[len(want):]
				}
			}
		}
		if offloads[0].udp() && p.dev[0].TakesUDPSegments() {
			require.EqualValues(t, 20, p.udpSegments.Load())
		} else {
			require.Zero(t, p.udpSegments.Load())
		}
	})
}

func setSegment(conn net.Conn, size int) error {
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size)
	})
	return errors.Join(err, set)
}

func TestIperf3BetweenTUNs(t *testing.T) {
	if _, err := exec.LookPath("iperf3"); err != nil {
		t.Skip(err)
	}
	p := newTUNPair(t, TUNConfig{}, [2]tunOffloads{allTUNOffloads, allTUNOffloads})
	const port = "5201" // of a namespace of our own
	server := p.ns[1].Command("iperf3", "--server", "--port", port, "--forceflush")
	out, err := server.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, server.Start())
	defer func() {
		server.Process.Kill()
		server.Wait()
	}()
	_, err = io.ReadAtLeast(out, make([]byte, 4096), 1) // it says when it listens
	require.NoError(t, err)
	go io.Copy(io.Discard, out)
	for name, args := range map[string][]string{
		"TCP":                {"--bytes", "64M"},
		"TCP, the other way": {"--bytes", "64M", "--reverse"},
		"TCP over IPv6":      {"--bytes", "64M", "--client", "fd00:200::2"},
		"four of TCP":        {"--bytes", "16M", "--parallel", "4"},
		"UDP":                {"--udp", "--bytes", "1M", "--bitrate", "100M", "--length", "1200"},
	} {
		args = append([]string{"--client", "10.200.0.2", "--port", port, "--connect-timeout", "30000"}, args...)
		out, err := p.ns[0].Command("iperf3", args...).CombinedOutput()
		for tries := 0; err != nil && bytes.Contains(out, []byte("server is busy")) && tries < 100; tries++ {
			time.Sleep(50 * time.Millisecond) // it has not done with the client before
			out, err = p.ns[0].Command("iperf3", args...).CombinedOutput()
		}
		require.NoError(t, err, "%s: %s", name, out)
	}
}

// BenchmarkTUNRead reads datagrams of 64 bytes, a batch at a time.
func BenchmarkTUNRead(b *testing.B) {
	ns := testnet.NewNamespace(b)
	dev := openTUNIn(b, ns, TUNConfig{Addrs: tunPrefixes("10.200.0.1/16")})
	var conn net.Conn
	var err error
	ns.Do(func() { conn, err = net.Dial("udp", "10.200.0.2:9") })
	require.NoError(b, err)
	defer conn.Close()
	batch, message := packet.NewBatch(0), make([]byte, 64)
	var spent time.Duration
	packets := 0
	for b.Loop() {
		for range packet.BatchSize {
			conn.Write(message)
		}
		start := time.Now()
		if err := dev.ReadBatch(batch); err != nil {
			b.Fatal(err)
		}
		spent += time.Since(start)
		packets += len(batch.Packets)
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(packets), "ns/packet")
}

// BenchmarkTUNWrite writes datagrams, a batch at a time, to a socket that is full.
func BenchmarkTUNWrite(b *testing.B) {
	for _, size := range []int{64, 1392} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			ns := testnet.NewNamespace(b)
			dev := openTUNIn(b, ns, TUNConfig{Addrs: tunPrefixes("10.0.0.1/24")})
			var conn net.PacketConn
			var err error
			ns.Do(func() { conn, err = net.ListenPacket("udp", here4.String()) })
			require.NoError(b, err)
			defer conn.Close()
			batch, datagram := packet.NewBatch(0), testnet.UDP(there4, here4, payload(size))
			for range packet.BatchSize {
				batch.Append(datagram, 0)
			}
			for b.Loop() {
				if err := dev.WriteBatch(batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/packet.BatchSize, "ns/packet")
		})
	}
}

// BenchmarkTUNToTUN is one stream of TCP from a namespace to another: what the
// devices take before anything is encrypted.
func BenchmarkTUNToTUN(b *testing.B) {
	for name, offloads := range map[string]tunOffloads{"whole": allTUNOffloads, "without offloads": 0} {
		b.Run(name, func(b *testing.B) {
			p := newTUNPair(b, TUNConfig{}, [2]tunOffloads{offloads, offloads})
			client, server := p.connect(b, "10.200.0.2")
			go io.Copy(io.Discard, server)
			data := make([]byte, 1<<20)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := client.Write(data); err != nil {
					b.Fatal(err)
				}
			}
			p.end()
		})
	}
}
