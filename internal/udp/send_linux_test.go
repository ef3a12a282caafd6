package udp

import (
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// call is one sendmmsg, as the kernel sees it.
type call struct {
	headers   int
	segmented int // headers with UDP_SEGMENT
	sourced   int // headers with packet information
}

// kernel stands between a sender and the real kernel, and refuses what it is told to.
type kernel struct {
	calls  []call
	refuse func(call) syscall.Errno
	most   int // headers it takes at once; 0: all
}

func (k *kernel) send(fd uintptr, hdrs []mmsghdr) (int, syscall.Errno) {
	c := call{headers: len(hdrs)}
	for i := range hdrs {
		segmented, sourced := controls(&hdrs[i])
		if segmented {
			c.segmented++
		}
		if sourced {
			c.sourced++
		}
	}
	k.calls = append(k.calls, c)
	if k.refuse != nil {
		if errno := k.refuse(c); errno != 0 {
			return 0, errno
		}
	}
	if k.most > 0 && k.most < len(hdrs) {
		hdrs = hdrs[:k.most]
	}
	return sendmmsg(fd, hdrs)
}

func controls(h *mmsghdr) (segmented, sourced bool) {
	if h.hdr.Controllen == 0 {
		return false, false
	}
	c := (*controlBuffer)(unsafe.Pointer(h.hdr.Control))
	all, err := unix.ParseSocketControlMessage(c.bytes()[:h.hdr.Controllen])
	if err != nil {
		panic(err)
	}
	for _, m := range all {
		segmented = segmented || m.Header.Level == unix.SOL_UDP && m.Header.Type == unix.UDP_SEGMENT
		sourced = sourced || m.Header.Type == unix.IP_PKTINFO || m.Header.Type == unix.IPV6_PKTINFO
	}
	return segmented, sourced
}

// through puts k before every socket of c, and skips where there is no offload
// for it to refuse.
func (k *kernel) through(t *testing.T, c *Conn) {
	if !c.Capabilities().GSO {
		t.Skip("the kernel has no UDP_SEGMENT")
	}
	for _, s := range c.Sockets() {
		s.t.(*batch).tx.call = k.send
	}
}

var families = map[string]netip.Addr{"IPv4": netip.MustParseAddr("127.0.0.1"), "IPv6": netip.IPv6Loopback()}

// refusal is a sending and a receiving Conn with a kernel that refuses between.
func refusal(t *testing.T, local netip.Addr, k *kernel) (from *Conn, to *Socket, endpoint Endpoint) {
	a, b := start(t, Config{}, openBatch), start(t, Config{}, openBatch)
	k.through(t, a)
	return a, socketFor(t, b, local), Endpoint{Addr: netip.AddrPortFrom(local, b.Port())}
}

func sendAll(t *testing.T, c *Conn, to *Socket, ms ...Message) {
	t.Helper()
	sent, err := c.Send(0, ms)
	require.NoError(t, err)
	require.Equal(t, len(ms), sent)
	var want [][]byte
	for _, m := range ms {
		for data := m.Data; len(data) > 0; {
			n := min(m.Seg, len(data))
			want = append(want, data[:n])
			data = data[n:]
		}
	}
	got, _ := collect(t, to, len(want))
	same(t, want, got)
}

// old reports whether the kernel takes but 64 segments.
func old(t *testing.T, c *Conn, to Endpoint) bool {
	to.Addr = netip.AddrPortFrom(to.Addr.Addr(), c.Port())
	s := socketFor(t, c, to.Addr.Addr())
	sendAll(t, c, s, Message{Data: datagrams(100*65, 100), Seg: 100, Endpoint: to})
	return s.t.(*batch).segments.Load() == oldSegments
}

func TestAnOldKernelIsGivenFewerSegments(t *testing.T) {
	for family, local := range families {
		t.Run(family, func(t *testing.T) {
			var k kernel
			a, s, to := refusal(t, local, &k)
			for _, other := range a.Sockets() {
				other.t.(*batch).tx.call = func(fd uintptr, hdrs []mmsghdr) (int, syscall.Errno) {
					for i := range hdrs {
						if hdrs[i].hdr.Iov.Len > oldSegments*100 {
							if hdrs = hdrs[:i]; i == 0 {
								return 0, unix.EINVAL
							}
							break
						}
					}
					return k.send(fd, hdrs)
				}
			}
			run := Message{Data: datagrams(100*130+9, 100), Seg: 100, Endpoint: to}
			sendAll(t, a, s, run, run)
			require.True(t, a.Capabilities().GSO)
			k.calls = nil
			sendAll(t, a, s, run) // 64, 64 and 3, at once
			require.Equal(t, []call{{headers: 3, segmented: 3}}, k.calls)
		})
	}
}

func TestARunIsOneHeader(t *testing.T) {
	for family, local := range families {
		t.Run(family, func(t *testing.T) {
			var k kernel
			a, s, to := refusal(t, local, &k)
			if old(t, a, to) {
				t.Skip("the kernel takes 64 segments")
			}
			k.calls = nil
			sendAll(t, a, s,
				Message{Data: datagrams(1452*45, 1452), Seg: 1452, Endpoint: to},
				Message{Data: datagrams(100, 100), Seg: 100, Endpoint: to},
				Message{Data: datagrams(100*129, 100), Seg: 100, Endpoint: to}, // 128 and 1
			)
			require.Equal(t, []call{{headers: 4, segmented: 2}}, k.calls)
		})
	}
}

func TestARunArrivesAsOne(t *testing.T) {
	for family, local := range families {
		t.Run(family, func(t *testing.T) {
			a, b := start(t, Config{}, openBatch), start(t, Config{}, openBatch)
			s := socketFor(t, b, local)
			if can := a.Capabilities(); !can.GSO || !can.GRO {
				t.Skip("the kernel has no offload")
			}
			data := datagrams(1452*44+7, 1452)
			_, err := a.Send(0, []Message{{Data: data, Seg: 1452, Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, b.Port())}}})
			require.NoError(t, err)
			ms := make([]Message, 4)
			n, err := s.Receive(ms)
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.Equal(t, 1452, ms[0].Seg)
			require.Equal(t, data, ms[0].Data)
		})
	}
}

func TestOneReceiveTakesWhatIsThere(t *testing.T) {
	a, b := start(t, Config{}, openBatch), start(t, Config{}, openBatch)
	local := families["IPv4"]
	s := socketFor(t, b, local)
	var out []Message
	for i := range runs {
		out = append(out, Message{Data: datagrams(100+i, 100+i), Endpoint: Endpoint{Addr: netip.AddrPortFrom(local, b.Port())}})
	}
	sent, err := a.Send(0, out)
	require.NoError(t, err)
	require.Equal(t, runs, sent)
	for _, room := range []int{3, runs} { // what has no room is kept
		ms := make([]Message, room)
		n, err := s.Receive(ms)
		require.NoError(t, err)
		require.Equal(t, min(room, len(out)), n)
		for i := range n {
			require.Equal(t, out[i].Data, ms[i].Data)
		}
		out = out[n:]
	}
	require.Empty(t, out)
}

// A device without transmit checksum offload says EIO, now and ever after.
func TestOffloadIsGivenUpWhenTheDeviceRefusesIt(t *testing.T) {
	for family, local := range families {
		t.Run(family, func(t *testing.T) {
			k := kernel{refuse: func(c call) syscall.Errno {
				if c.segmented > 0 {
					return unix.EIO
				}
				return 0
			}}
			a, s, to := refusal(t, local, &k)
			run := Message{Data: datagrams(1000*70+9, 1000), Seg: 1000, Endpoint: to} // 65, or 64, and the rest
			sendAll(t, a, s, run)
			require.Equal(t, []call{{headers: 2, segmented: 2}, {headers: 64}, {headers: 7}}, k.calls)
			require.False(t, a.Capabilities().GSO)
			require.True(t, s.conn.Capabilities().GSO)

			k.calls = nil
			sendAll(t, a, s, run)
			require.Equal(t, []call{{headers: 64}, {headers: 7}}, k.calls)
		})
	}
}

// A segment larger than the path MTU must be fragmented, which offload does not do.
func TestOffloadIsLeftOutForARunItCannotTake(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.EMSGSIZE, unix.EINVAL} {
		t.Run(errno.Error(), func(t *testing.T) {
			first := true
			k := kernel{refuse: func(c call) syscall.Errno {
				if first && c.segmented > 0 {
					first = false
					return errno
				}
				return 0
			}}
			a, s, to := refusal(t, families["IPv4"], &k)
			run := Message{Data: datagrams(1000*10, 1000), Seg: 1000, Endpoint: to}
			sendAll(t, a, s, run, run)
			require.Equal(t, []call{{headers: 2, segmented: 2}, {headers: 11, segmented: 1}}, k.calls)
			require.True(t, a.Capabilities().GSO)
		})
	}
}

func TestAStaleSourceIsForgottenAndTheRunSent(t *testing.T) {
	for family, local := range families {
		for _, errno := range []syscall.Errno{unix.EINVAL, unix.EADDRNOTAVAIL, unix.ENODEV, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN} {
			t.Run(family+" "+errno.Error(), func(t *testing.T) {
				k := kernel{refuse: func(c call) syscall.Errno {
					if c.sourced > 0 {
						return errno
					}
					return 0
				}}
				a, s, to := refusal(t, local, &k)
				to.Src, to.Interface = local, 1
				ms := []Message{{Data: datagrams(1000*10, 1000), Seg: 1000, Endpoint: to}}
				sent, err := a.Send(0, ms)
				require.NoError(t, err)
				require.Equal(t, 1, sent)
				require.Equal(t, Endpoint{Addr: to.Addr}, ms[0].Endpoint)
				collect(t, s, 10)
				require.Equal(t, call{headers: 1, segmented: 1}, k.calls[len(k.calls)-1], "offload is used without the source")
			})
		}
	}
}

func TestOtherErrorsFailTheirMessageOnly(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.EPERM, unix.ENOBUFS, unix.ENETUNREACH} {
		t.Run(errno.Error(), func(t *testing.T) {
			n := 0
			k := kernel{most: 1}
			k.refuse = func(call) syscall.Errno {
				if n++; n == 2 {
					return errno
				}
				return 0
			}
			a, s, to := refusal(t, families["IPv4"], &k)
			run := Message{Data: datagrams(300, 100), Seg: 100, Endpoint: to}
			ms := []Message{run, run, run}
			sent, err := a.Send(0, ms)
			require.Equal(t, errno, err)
			require.Equal(t, 2, sent)
			require.NoError(t, ms[0].Err)
			require.Equal(t, errno, ms[1].Err)
			require.NoError(t, ms[2].Err)
			collect(t, s, 6)
		})
	}
}

func TestAShortSendmmsgIsContinued(t *testing.T) {
	for _, most := range []int{1, 3} {
		k := kernel{most: most}
		a, s, to := refusal(t, families["IPv4"], &k)
		a.Sockets()[0].t.(*batch).segments.Store(1)
		sendAll(t, a, s,
			Message{Data: datagrams(1050, 100), Seg: 100, Endpoint: to},
			Message{Data: datagrams(100, 100), Seg: 100, Endpoint: to},
			Message{Data: datagrams(399, 200), Seg: 200, Endpoint: to},
		)
	}
}

func TestAnInterruptedSendIsRepeated(t *testing.T) {
	n := 0
	k := kernel{refuse: func(call) syscall.Errno {
		if n++; n < 3 {
			return unix.EINTR
		}
		return 0
	}}
	a, s, to := refusal(t, families["IPv4"], &k)
	sendAll(t, a, s, Message{Data: datagrams(300, 100), Seg: 100, Endpoint: to})
}

func TestAFullSocketIsGivenUpAfterAWhile(t *testing.T) {
	full := true
	k := kernel{refuse: func(call) syscall.Errno {
		if full {
			return unix.EAGAIN
		}
		return 0
	}}
	a, s, to := refusal(t, families["IPv4"], &k)
	run := Message{Data: datagrams(300, 100), Seg: 100, Endpoint: to}
	ms := []Message{run, run}
	sent, err := a.Send(0, ms)
	require.Zero(t, sent)
	require.Equal(t, unix.EAGAIN, err)
	require.Equal(t, unix.EAGAIN, ms[1].Err)
	require.Less(t, len(k.calls), 5, "it must wait, not spin")

	full = false
	sendAll(t, a, s, run)
}

func TestCloseEndsTheWaitForAFullSocket(t *testing.T) {
	waiting := make(chan struct{}, 1)
	k := kernel{refuse: func(call) syscall.Errno {
		select {
		case waiting <- struct{}{}:
		default:
		}
		return unix.EAGAIN
	}}
	a, _, to := refusal(t, families["IPv4"], &k)
	done := make(chan error)
	go func() {
		for {
			if _, err := a.Send(0, []Message{{Data: datagrams(100, 100), Endpoint: to}}); err != unix.EAGAIN {
				done <- err
				return
			}
		}
	}()
	<-waiting
	require.NoError(t, a.Close())
	require.Equal(t, net.ErrClosed, <-done)
}

func TestAnswersLeaveFromWhereTheDatagramCame(t *testing.T) {
	near := start(t, Config{}, openBatch)
	s := socketFor(t, near, netip.MustParseAddr("127.0.0.1"))
	if !near.Capabilities().Src {
		t.Skip("the kernel tells no local address")
	}
	far, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer far.Close()
	for _, local := range []string{"127.0.0.1", "127.0.0.2", "127.1.2.3"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(local), near.Port())
		_, err := far.WriteToUDPAddrPort(datagrams(32, 32), to)
		require.NoError(t, err)
		ms := make([]Message, 1)
		_, err = s.Receive(ms)
		require.NoError(t, err)
		require.Equal(t, to.Addr(), ms[0].Endpoint.Src)
		require.NotZero(t, ms[0].Endpoint.Interface)

		sent, err := near.Send(0, ms)
		require.NoError(t, err)
		require.Equal(t, 1, sent)
		require.Equal(t, to.Addr(), ms[0].Endpoint.Src)
		buf := make([]byte, 64)
		n, from, err := far.ReadFromUDPAddrPort(buf)
		require.NoError(t, err)
		require.Equal(t, 32, n)
		require.Equal(t, to, from)
	}
}

func TestASourceTheHostLacksIsForgotten(t *testing.T) {
	for family, local := range families {
		t.Run(family, func(t *testing.T) {
			a, b := start(t, Config{}, openBatch), start(t, Config{}, openBatch)
			s := socketFor(t, b, local)
			stale := netip.MustParseAddr("192.0.2.77")
			if local.Is6() {
				stale = netip.MustParseAddr("2001:db8::77")
			}
			to := netip.AddrPortFrom(local, b.Port())
			ms := []Message{
				{Data: datagrams(2500, 1000), Seg: 1000, Endpoint: Endpoint{Addr: to, Src: stale}},
				{Data: datagrams(100, 100), Endpoint: Endpoint{Addr: to, Interface: 1 << 30}},
				{Data: datagrams(100, 100), Endpoint: Endpoint{Addr: to, Src: local}},
			}
			sent, err := a.Send(0, ms)
			require.NoError(t, err)
			require.Equal(t, 3, sent)
			require.Equal(t, Endpoint{Addr: to}, ms[0].Endpoint)
			require.Equal(t, Endpoint{Addr: to}, ms[1].Endpoint)
			require.Equal(t, local, ms[2].Endpoint.Src)
			got, _ := collect(t, s, 5)
			require.Equal(t, []int{1000, 1000, 500, 100, 100}, lengths(got))
		})
	}
}

func lengths(got [][]byte) []int {
	var all []int
	for _, d := range got {
		all = append(all, len(d))
	}
	return slices.Clip(all)
}

func TestECNBitsTravel(t *testing.T) {
	for family, local := range families {
		t.Run(family, func(t *testing.T) {
			a, b := start(t, Config{}, openBatch), start(t, Config{}, openBatch)
			s := socketFor(t, b, local)
			if !a.Capabilities().ECN {
				t.Skip("the kernel tells no ECN bits")
			}
			to := Endpoint{Addr: netip.AddrPortFrom(local, b.Port())}
			var out []Message
			for ecn := range byte(4) {
				out = append(out, Message{Data: datagrams(300, 100), Seg: 100, ECN: ecn, Endpoint: to})
			}
			sent, err := a.Send(0, out)
			require.NoError(t, err)
			require.Equal(t, 4, sent)
			ms := make([]Message, 16)
			var got []byte
			for len(got) < 12 {
				n, err := s.Receive(ms)
				require.NoError(t, err)
				for _, m := range ms[:n] {
					got = append(got, slices.Repeat([]byte{m.ECN}, len(m.Data)/m.Seg)...)
				}
			}
			require.Equal(t, []byte{0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3}, got)
		})
	}
}
