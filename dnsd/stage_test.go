package dnsd

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/packet"
)

// A fakeDevice keeps what is written to it.
type fakeDevice struct {
	mtu   int
	wrote chan []byte
}

func newFakeDevice() *fakeDevice { return &fakeDevice{1420, make(chan []byte, 1024)} }

func (d *fakeDevice) WriteBatch(b *packet.Batch) error {
	for i := range b.Packets {
		d.wrote <- append([]byte(nil), b.Packets[i].Data...)
	}
	return nil
}
func (d *fakeDevice) ReadBatch(*packet.Batch) error { return net.ErrClosed }
func (d *fakeDevice) Lanes() int                    { return 1 }
func (d *fakeDevice) MTU() int                      { return d.mtu }
func (d *fakeDevice) Name() string                  { return "fake" }
func (d *fakeDevice) Events() <-chan packet.Event   { return nil }
func (d *fakeDevice) Close() error                  { return nil }

const udpHeader = 8

// datagram is a UDP packet with room to grow to the MTU.
func datagram(from, to netip.AddrPort, payload []byte) []byte {
	header := 20
	if to.Addr().Is6() {
		header = 40
	}
	data := make([]byte, header+udpHeader+len(payload), 1420+packet.Slack)
	if to.Addr().Is4() {
		data[0], data[8], data[9] = 0x45, 64, packet.ProtocolUDP
		binary.BigEndian.PutUint16(data[2:], uint16(len(data)))
		copy(data[12:], from.Addr().AsSlice())
		copy(data[16:], to.Addr().AsSlice())
		sum := packet.Sum(data[:20], 0)
		binary.BigEndian.PutUint16(data[10:], ^sum)
	} else {
		data[0], data[6], data[7] = 0x60, packet.ProtocolUDP, 64
		binary.BigEndian.PutUint16(data[4:], uint16(udpHeader+len(payload)))
		copy(data[8:], from.Addr().AsSlice())
		copy(data[24:], to.Addr().AsSlice())
	}
	udp := data[header:]
	binary.BigEndian.PutUint16(udp[0:], from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	copy(udp[udpHeader:], payload)
	var p packet.Packet
	p.Set(data, 0)
	p.FinishChecksum()
	return data
}

var (
	stage4, stage6 = netip.MustParseAddrPort("10.200.0.53:53"), netip.MustParseAddrPort("[fd00:200::53]:53")
	host4, host6   = netip.MustParseAddrPort("10.200.3.7:5353"), netip.MustParseAddrPort("[fd00:200::7]:5353")
)

func newStage(tb testing.TB, s *Server) (*Stage, *fakeDevice) {
	device := newFakeDevice()
	st, err := s.NewStage(device, stage4, stage6)
	require.NoError(tb, err)
	return st, device
}

func pack(tb testing.TB, m *dns.Msg) []byte {
	packed, err := m.Pack()
	require.NoError(tb, err)
	return packed
}

// unwrap checks an answer's packet and returns the message in it.
func unwrap(t *testing.T, data []byte, from, to netip.AddrPort) *dns.Msg {
	var p packet.Packet
	p.Set(data, 0)
	require.True(t, p.Trim())
	require.Len(t, p.Data, len(data))
	require.True(t, p.ChecksumOK())
	require.Equal(t, from, p.Src())
	require.Equal(t, to, p.Dst())
	m := new(dns.Msg)
	require.NoError(t, m.Unpack(p.Transport()[udpHeader:]))
	return m
}

// pass sends packets through a stage.
func pass(pass func(*packet.Batch), packets ...[]byte) *packet.Batch {
	b := packet.NewBatch(0)
	for _, data := range packets {
		b.Append(data, 0)
	}
	pass(b)
	b.Sweep()
	return b
}

func TestAStageAnswersFromThePacketItself(t *testing.T) {
	s := testServer(t, Config{Zones: []*Zone{testZone(t)}})
	st, _ := newStage(t, s)
	for name, direction := range map[string]func(*packet.Batch){"outbound": st.Outbound, "inbound": st.Inbound} {
		t.Run(name, func(t *testing.T) {
			query := pack(t, question1("web.overlay.internal.", dns.TypeA))
			q4, q6 := datagram(host4, stage4, query), datagram(host6, stage6, query)
			other := datagram(host4, netip.MustParseAddrPort("10.200.0.54:53"), query)
			port := datagram(host4, netip.AddrPortFrom(stage4.Addr(), 54), query)
			b := pass(direction, other, q4, q6, port)
			require.Len(t, b.Packets, 2, "what is not for the stage passes")
			require.Len(t, b.Bounced(), 2)
			for i, ends := range [][2]netip.AddrPort{{stage4, host4}, {stage6, host6}} {
				p := b.Bounced()[i]
				require.Same(t, &[][]byte{q4, q6}[i][0], &p.Data[0], "in place")
				resp := unwrap(t, p.Data, ends[0], ends[1])
				require.Equal(t, []string{"web.overlay.internal. 30 IN A 10.200.3.4"}, lines(resp.Answer))
			}
		})
	}
	require.EqualValues(t, 4, s.Stats().Inline)
	require.Equal(t, []netip.AddrPort{stage4, stage6}, st.Addrs())
}

func TestAStageSetsTCWhenTheAnswerDoesNotFit(t *testing.T) {
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprint("many.example.com. 60 IN A 192.0.2.", i))
	}
	up := newUpstream(t, answers(0, many...))
	s := testServer(t, Config{Zones: []*Zone{testZone(t)}, Forward: &Forward{Upstreams: []Upstream{up.upstream()}}})
	st, device := newStage(t, s)
	big := question1("big.overlay.internal.", dns.TypeTXT)
	big.SetEdns0(4096, false)
	b := pass(st.Outbound, datagram(host4, stage4, pack(t, big)))
	require.True(t, unwrap(t, b.Bounced()[0].Data, stage4, host4).Truncated, "longer than a datagram we send")

	pool := question1("pool.overlay.internal.", dns.TypeA)
	device.mtu = 100
	b = pass(st.Outbound, datagram(host4, stage4, pack(t, pool)))
	require.True(t, unwrap(t, b.Bounced()[0].Data, stage4, host4).Truncated, "longer than the MTU")
	late := question1("many.example.com.", dns.TypeA)
	late.SetEdns0(1232, false)
	b = pass(st.Outbound, datagram(host4, stage4, pack(t, late)))
	require.Equal(t, 1, b.Drops(packet.Deferred))
	require.True(t, unwrap(t, <-device.wrote, stage4, host4).Truncated, "also when it is late")
	device.mtu = 1420
	data := datagram(host4, stage4, pack(t, pool))
	b = pass(st.Outbound, data[:len(data):len(data)+packet.Slack])
	require.True(t, unwrap(t, b.Bounced()[0].Data, stage4, host4).Truncated, "longer than the packet's room")
	b = pass(st.Outbound, datagram(host4, stage4, pack(t, pool)))
	require.Len(t, unwrap(t, b.Bounced()[0].Data, stage4, host4).Answer, 3)
}

func TestAStageHandsTheServerWhatItDoesNotKnow(t *testing.T) {
	up := newUpstream(t, answers(0, "example.com. 60 IN A 192.0.2.1"))
	s := testServer(t, Config{Zones: []*Zone{testZone(t)}, Forward: &Forward{Upstreams: []Upstream{up.upstream()}}})
	st, device := newStage(t, s)
	for _, name := range []string{"example.com.", "away.overlay.internal."} {
		for _, ends := range [][2]netip.AddrPort{{host4, stage4}, {host6, stage6}} {
			query := pack(t, question1(name, dns.TypeA))
			b := pass(st.Outbound, datagram(ends[0], ends[1], query))
			if len(b.Bounced()) == 1 { // it is in the cache by now
				require.Equal(t, "example.com.", name)
				continue
			}
			require.Equal(t, 1, b.Drops(packet.Deferred))
			resp := unwrap(t, <-device.wrote, ends[1], ends[0])
			require.NotEmpty(t, resp.Answer)
		}
	}
	t.Run("but not inbound", func(t *testing.T) {
		counted := s.Stats().Inline
		b := pass(st.Inbound, datagram(host4, stage4, pack(t, question1("away.overlay.internal.", dns.TypeA))))
		require.Len(t, b.Packets, 1)
		require.Equal(t, counted, s.Stats().Inline)
	})
	t.Run("and no more than there is room for", func(t *testing.T) {
		up.set(silent)
		query := datagram(host4, stage4, pack(t, question1("slow.example.com.", dns.TypeA)))
		failed := 0
		for range maxLate + 10 {
			b := pass(st.Outbound, append(make([]byte, 0, 1500), query...))
			for _, p := range b.Bounced() {
				require.Equal(t, dns.RcodeServerFailure, unwrap(t, p.Data, stage4, host4).Rcode)
				failed++
			}
		}
		require.GreaterOrEqual(t, failed, 10)
	})
}

func TestAStageDropsWhatDeservesNoAnswer(t *testing.T) {
	query := pack(t, question1("web.overlay.internal.", dns.TypeA))
	answer := append([]byte(nil), query...)
	answer[2] |= flagQR
	fragment := datagram(host4, stage4, query)
	fragment[6] = 0x20
	damaged := datagram(host4, stage4, query)
	damaged[40] ^= 1
	cut := datagram(host4, stage4, query)
	binary.BigEndian.PutUint16(cut[24:], 4000)
	tcp := datagram(host4, stage4, query)
	tcp[9] = packet.ProtocolTCP
	loopback := datagram(netip.MustParseAddrPort("127.0.0.1:53"), stage4, query)
	for does, c := range map[string]struct {
		data []byte
		why  packet.Reason // 0: it passes
	}{
		"an answer":                                     {datagram(host4, stage4, answer), packet.Filtered},
		"an empty datagram":                             {datagram(host4, stage4, nil), packet.Filtered},
		"a damaged datagram":                            {damaged, packet.BadChecksum},
		"a datagram longer than its packet":             {cut, packet.Malformed},
		"a query from no host at all":                   {loopback, packet.NoReply},
		"a fragment is somebody else's to put together": {fragment, 0},
		"TCP is somebody else's to speak":               {tcp, 0},
	} {
		t.Run(does, func(t *testing.T) {
			st, _ := newStage(t, testServer(t, Config{Zones: []*Zone{testZone(t)}}))
			direction := st.Outbound
			if c.why == packet.BadChecksum { // which the device vouches for
				direction = st.Inbound
			}
			b := pass(direction, append(make([]byte, 0, 1500), c.data...))
			require.Empty(t, b.Bounced())
			if c.why == 0 {
				require.Len(t, b.Packets, 1)
				return
			}
			require.Equal(t, 1, b.Drops(c.why))
		})
	}
	t.Run("a source that asks too fast", func(t *testing.T) {
		st, _ := newStage(t, testServer(t, Config{Zones: []*Zone{testZone(t)}, RatePerSource: 1}))
		require.Len(t, pass(st.Outbound, datagram(host4, stage4, query)).Bounced(), 1)
		require.Equal(t, 1, pass(st.Outbound, datagram(host4, stage4, query)).Drops(packet.Filtered))
	})
	t.Run("a superpacket passes", func(t *testing.T) {
		st, _ := newStage(t, testServer(t, Config{Zones: []*Zone{testZone(t)}}))
		b := packet.NewBatch(0)
		b.Append(datagram(host4, stage4, query), 20)
		st.Outbound(b)
		b.Sweep()
		require.Len(t, b.Packets, 1)
	})
	s := testServer(t, Config{})
	for _, bad := range []string{"0.0.0.0:53", "224.0.0.251:53", "10.0.0.1:0"} {
		_, err := s.NewStage(newFakeDevice(), netip.MustParseAddrPort(bad))
		require.ErrorContains(t, err, bad)
	}
	_, err := s.NewStage(nil, stage4)
	require.Error(t, err)
	_, err = s.NewStage(newFakeDevice())
	require.Error(t, err)
}

func TestThePacketPathAllocatesNothing(t *testing.T) {
	up := newUpstream(t, answers(0, "example.com. 60 IN A 192.0.2.1"))
	s := testServer(t, Config{Zones: []*Zone{testZone(t)}, Forward: &Forward{Upstreams: []Upstream{up.upstream()}}, RatePerSource: 1 << 30})
	require.Len(t, askOnce(t, s, "example.com.").Answer, 1)
	st, _ := newStage(t, s)
	for does, m := range map[string]*dns.Msg{
		"an address":          question1("web.overlay.internal.", dns.TypeA),
		"three addresses":     question1("pool.overlay.internal.", dns.TypeA),
		"an alias":            question1("www2.overlay.internal.", dns.TypeA),
		"an alias to nowhere": question1("dangling.overlay.internal.", dns.TypeA),
		"a name":              question1("4.3.200.10.in-addr.arpa.", dns.TypePTR),
		"a wildcard":          question1("x.wild.overlay.internal.", dns.TypeA),
		"no such name":        question1("nope.overlay.internal.", dns.TypeA),
		"no such type":        question1("v4.overlay.internal.", dns.TypeAAAA),
		"a truncated answer":  question1("big.overlay.internal.", dns.TypeTXT),
		"a cached answer":     question1("example.com.", dns.TypeA),
		"EDNS":                question1("web.overlay.internal.", dns.TypeA).SetEdns0(1232, true),
	} {
		for _, ends := range [][2]netip.AddrPort{{host4, stage4}, {host6, stage6}} {
			query := datagram(ends[0], ends[1], pack(t, m))
			b := packet.NewBatch(0)
			buf := make([]byte, 1500)
			for name, direction := range map[string]func(*packet.Batch){"outbound": st.Outbound, "inbound": st.Inbound} {
				bounced := 0
				allocs := testing.AllocsPerRun(100, func() {
					b.Reset()
					b.Append(buf[:copy(buf, query)], 0)
					direction(b)
					b.Sweep()
					bounced += len(b.Bounced())
				})
				require.Zero(t, allocs, "%s %s", does, name)
				require.Equal(t, 101, bounced, "%s %s", does, name)
			}
		}
	}
}

func TestUDPAllocatesNothing(t *testing.T) {
	s := testServer(t, Config{Zones: []*Zone{testZone(t)}, RatePerSource: 1 << 30})
	for _, on := range []string{"127.0.0.1:0", "0.0.0.0:0"} {
		l := listen(t, s, on)
		conn, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(l.Addr().Port())})
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
		query, buf := pack(t, question1("pool.overlay.internal.", dns.TypeA)), make([]byte, 512)
		var wrong error
		// The client's half is in the count.
		allocs := testing.AllocsPerRun(500, func() {
			if _, err := conn.Write(query); err != nil {
				wrong = err
			}
			if _, err := conn.Read(buf); err != nil {
				wrong = err
			}
		})
		require.NoError(t, wrong)
		require.Zero(t, allocs, on)
	}
}

func TestAStageMayBeUsedFromManyLanesAtOnce(t *testing.T) {
	z := testZone(t)
	s := testServer(t, Config{Zones: []*Zone{z}})
	st, _ := newStage(t, s)
	query := datagram(host4, stage4, pack(t, question1("pool.overlay.internal.", dns.TypeA)))
	var wg sync.WaitGroup
	for range 4 {
		for _, direction := range []func(*packet.Batch){st.Outbound, st.Inbound} {
			wg.Go(func() {
				b := packet.NewBatch(0)
				for range 200 {
					b.Reset()
					b.Append(append(make([]byte, 0, 1500), query...), 0)
					direction(b)
					b.Sweep()
					if len(b.Bounced()) != 1 {
						panic("no answer")
					}
				}
			})
		}
	}
	for range 200 {
		require.NoError(t, z.SetAddresses("pool", addr("10.200.4.1"), addr("10.200.4.2")))
	}
	wg.Wait()
	require.EqualValues(t, 1600, s.Stats().Inline)
}
