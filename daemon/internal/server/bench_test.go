package server

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/wire"
)

// status is one of a node with a few peers.
func status() wire.Status {
	addrs := []netip.Prefix{netip.MustParsePrefix("10.200.1.1/16"), netip.MustParsePrefix("fd00:200::1/48")}
	st := wire.Status{
		Interface: "ovl-prod-g", NodeIP: addrs[0].Addr(), PublicKey: "mGvhJaWNkAbE9Ck0iIl9E0JkR5gGLvjeqL7HtiDXe3I=", OverlayCIDR: "10.200.0.0/16",
		SliceCIDR: "10.200.1.0/24", PeerCount: 4, ServiceCount: 50, Version: "v1.0.0", BootID: "0123456789abcdef", Mode: "tun", Uptime: 1000,
		ListenPort: 51420, MTU: 1420, Addresses: addrs, AttachmentCount: 500,
	}
	for i := range 4 {
		st.Peers = append(st.Peers, wire.PeerStatus{
			PublicKey: st.PublicKey, Endpoint: fmt.Sprintf("192.0.2.%d:51420", i), AllowedIPs: "10.200.2.0/24,fd00:200:0:2::/64", LastHandshake: 1 << 30, RxBytes: 1 << 40, Healthy: true,
		})
	}
	return st
}

func benchmark(b *testing.B, h handler, r wire.Request, pipelined int) {
	bed := start(b, h)
	c := bed.raw()
	require.NoError(b, c.SetDeadline(time.Time{}))
	if pipelined > 1 {
		c.pipeline()
	}
	frame := request(1, r)
	in := bufio.NewReader(c)
	var buf []byte
	b.ReportAllocs()
	b.ResetTimer()
	sent := 0
	for got := 0; got < b.N; {
		for ; sent < b.N && sent-got < pipelined; sent++ {
			if _, err := c.Write(frame); err != nil {
				b.Fatal(err)
			}
		}
		body, err := wire.ReadFrame(in, buf)
		if err != nil {
			b.Fatal(err)
		}
		buf = body
		got++
	}
}

func ok(context.Context, wire.Request) (wire.Response, error) { return wire.OK{}, nil }

func BenchmarkRequest(b *testing.B) {
	st := status()
	withStatus := func(context.Context, wire.Request) (wire.Response, error) { return st, nil }
	b.Run("ok", func(b *testing.B) { benchmark(b, ok, wire.NATTick{}, 1) })
	b.Run("status", func(b *testing.B) { benchmark(b, withStatus, wire.StatusRequest{}, 1) })
	b.Run("ok 16 at once", func(b *testing.B) { benchmark(b, ok, wire.NATTick{}, 16) })
	b.Run("status 16 at once", func(b *testing.B) { benchmark(b, withStatus, wire.StatusRequest{}, 16) })
}

func TestATrivialRequestCostsFewAllocations(t *testing.T) {
	b := start(t, ok)
	c := b.raw()
	frame, answer := request(1, wire.NATTick{}), make([]byte, 4096)
	allocs := testing.AllocsPerRun(500, func() {
		c.Write(frame) //nolint:errcheck // the read finds out
		if _, err := c.Read(answer); err != nil {
			t.Fatal(err)
		}
	})
	require.LessOrEqual(t, allocs, 8.0)
}
