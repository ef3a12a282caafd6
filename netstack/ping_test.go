package netstack

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/overlayd/overlayd/packet"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func TestPingReachesPeersAndTheStackItself(t *testing.T) {
	a, _ := newPair(t)
	for _, to := range []netip.Prefix{addrB4, addrB6, addrA4, addrA6} {
		rtt, err := a.Ping(testContext(t), to.Addr())
		require.NoError(t, err)
		require.Positive(t, rtt)
		require.Less(t, rtt, 10*time.Second)
	}
}

func TestManyPingsAtOnceEachHaveTheirAnswer(t *testing.T) {
	a, _ := newPair(t)
	var pings sync.WaitGroup
	for range 40 {
		pings.Go(func() {
			_, err := a.Ping(testContext(t), addrB6.Addr())
			assert.NoError(t, err)
		})
	}
	pings.Wait()
}

func TestPingSaysWhyItFails(t *testing.T) {
	s := newStack(t, Config{Addrs: []netip.Prefix{addrA4}})
	ping := func(ctx context.Context, addr netip.Addr) error {
		_, err := s.Ping(ctx, addr)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, "ping", op.Op)
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, ping(ctx, addrB4.Addr()), context.DeadlineExceeded)
	require.ErrorIs(t, ping(ctx, addrB4.Addr()), context.DeadlineExceeded)
	require.ErrorIs(t, ping(t.Context(), addrB6.Addr()), syscall.ENETUNREACH)
	var addr *net.AddrError
	require.ErrorAs(t, ping(t.Context(), netip.Addr{}), &addr)
	require.ErrorAs(t, ping(t.Context(), netip.IPv4Unspecified()), &addr)
	time.AfterFunc(10*time.Millisecond, func() { s.Close() })
	require.ErrorIs(t, ping(t.Context(), addrB4.Addr()), net.ErrClosed)
	require.ErrorIs(t, ping(t.Context(), addrB4.Addr()), net.ErrClosed)
}

// unreachable answers every packet with a router's ICMP error.
func unreachable(code header.ICMPv4Code) wire {
	return func() func(*packet.Batch, packet.Device) error {
		return func(from *packet.Batch, back packet.Device) error {
			out := packet.NewBatch(0)
			for i := range from.Packets {
				quoted := from.Packets[i].Data
				icmp := header.ICMPv4(make([]byte, 8, 8+len(quoted)))
				icmp.SetType(header.ICMPv4DstUnreachable)
				icmp.SetCode(code)
				icmp = append(icmp, quoted...)
				icmp.SetChecksum(^checksum.Checksum(icmp, 0))
				ip := header.IPv4(make([]byte, 20, 20+len(icmp)))
				ip.Encode(&header.IPv4Fields{TotalLength: uint16(20 + len(icmp)), TTL: 64, Protocol: packet.ProtocolICMP,
					SrcAddr: toAddress(netip.MustParseAddr("10.200.0.254")), DstAddr: toAddress(from.Packets[i].SrcAddr())})
				ip.SetChecksum(^ip.CalculateChecksum())
				out.Append(append(ip, icmp...), 0)
			}
			return back.WriteBatch(out)
		}
	}
}

func TestARoutersErrorsReachTheCaller(t *testing.T) {
	for _, tt := range []struct {
		name string
		code header.ICMPv4Code
		want syscall.Errno
	}{
		{"host unreachable", header.ICMPv4HostUnreachable, syscall.EHOSTUNREACH},
		{"network unreachable", header.ICMPv4NetUnreachable, syscall.ENETUNREACH},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := New(Config{Addrs: []netip.Prefix{addrA4}})
			require.NoError(t, err)
			var router sync.WaitGroup
			router.Go(func() { pump(s.Device(), s.Device(), unreachable(tt.code)) })
			defer router.Wait()
			defer s.Close()
			_, err = s.Ping(testContext(t), addrB4.Addr())
			require.ErrorIs(t, err, tt.want)
			_, err = s.DialContext(testContext(t), "tcp", addrPort(addrB4, "80"))
			require.ErrorIs(t, err, tt.want)
		})
	}
}
