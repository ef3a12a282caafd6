package netstack

import (
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// connect makes a connection from a to b.
func connect(t testing.TB, a, b *Stack, network, host string) (client, server net.Conn) {
	t.Helper()
	l, err := b.Listen(network, net.JoinHostPort(host, "0"))
	require.NoError(t, err)
	defer l.Close()
	client, err = a.DialContext(testContext(t), network, l.Addr().String())
	require.NoError(t, err)
	server, err = l.Accept()
	require.NoError(t, err)
	return client, server
}

func BenchmarkBulk(b *testing.B) {
	for _, wires := range []struct {
		name   string
		ab, ba wire
	}{{"whole", whole, whole}, {"cut", cut, cut}, {"merged", merged, merged}} {
		for _, write := range []int{32 << 10, 64 << 10, 1 << 20} {
			b.Run(wires.name+"/"+byteSize(write), func(b *testing.B) {
				benchmarkBulk(b, wires.ab, wires.ba, write)
			})
		}
	}
}

func byteSize(n int) string {
	if n >= 1<<20 {
		return string(rune('0'+n>>20)) + "MiB"
	}
	return map[int]string{32 << 10: "32KiB", 64 << 10: "64KiB"}[n]
}

func benchmarkBulk(b *testing.B, ab, ba wire, write int) {
	s, r := newPairOver(b, Config{}, ab, ba)
	client, server := connect(b, s, r, "tcp", addrB4.Addr().String())
	defer client.Close()
	done := make(chan int64)
	go func() {
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{server}, make([]byte, 256<<10))
		server.Close()
		done <- n
	}()
	buf := make([]byte, write)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		for n := 0; n < 1<<20; n += write {
			if _, err := client.Write(buf); err != nil {
				b.Fatal(err)
			}
		}
	}
	require.NoError(b, client.(*tcpConn).CloseWrite())
	<-done
}

func BenchmarkRoundTrip(b *testing.B) {
	s, r := newPair(b)
	client, server := connect(b, s, r, "tcp", addrB4.Addr().String())
	defer client.Close()
	go func() {
		io.Copy(server, server)
		server.Close()
	}()
	buf := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(client, buf); err != nil {
			b.Fatal(err)
		}
	}
}
