package wire_test

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/overlayd/overlayd/daemon/wire"
)

func thousandPeers() wire.Status {
	s := wire.Status{PeerCount: 1000}
	for i := range 1000 {
		s.Peers = append(s.Peers, wire.PeerStatus{
			PublicKey: "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=", Endpoint: "203.0.113.9:51420",
			AllowedIPs: "10.200.7.16/32,10.200.74.16/28", LastHandshake: 1_790_000_000,
			Address: netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), RxBytes: 1 << 40, TxBytes: 1 << 33, Healthy: true,
		})
	}
	return s
}

func BenchmarkStatusOfAThousandPeers(b *testing.B) {
	f := wire.ResponseFrame{ID: 1, Response: thousandPeers()}
	body, err := wire.Marshal(f)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("append", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		var buf []byte
		for b.Loop() {
			buf, _ = wire.AppendFrame(buf[:0], f)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		for b.Loop() {
			wire.Decode(body) //nolint:errcheck // it came from Marshal
		}
	})
	b.Run("decode with encoding/json", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		for b.Loop() {
			var loose struct{ Response wire.Status }
			json.Unmarshal(body, &loose) //nolint:errcheck // it came from Marshal
		}
	})
}
