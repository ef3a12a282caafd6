package daemon

import (
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

// A course is the course of a peer's state, and of what is told of it.
type course struct {
	overlay.PeerStatus
	ward ward
	now  time.Time
	told []wire.Event
}

func newCourse() *course {
	return &course{now: time.Unix(1_700_000_000, 0), PeerStatus: overlay.PeerStatus{PublicKey: overlay.PublicKey{1}}}
}

// pass lets time go by, looked at each second, in each of which happens what each
// does.
func (c *course) pass(d time.Duration, each func()) {
	for range int(d / time.Second) {
		c.now = c.now.Add(time.Second)
		if each != nil {
			each()
		}
		c.look()
	}
}

func (c *course) look() {
	c.ward.begin()
	c.ward.look("web", &c.PeerStatus, c.now, func(e wire.Event) { c.told = append(c.told, e) })
	c.ward.end()
}

// health is what was told of the peer's health since the last time.
func (c *course) health() (list []bool) {
	for _, e := range c.told {
		if h, ok := e.(wire.PeerHealthChanged); ok {
			list = append(list, h.Healthy)
		}
	}
	c.told = nil
	return list
}

func (c *course) shake() {
	c.LastHandshake = c.now
	c.TxBytes += 148
	c.RxBytes += 92
}

func (c *course) try() { c.TxBytes += 148 } // a handshake that is not answered

func (c *course) send() {
	c.TxBytes += 132
	c.TxPackets++
}

func (c *course) exchange() {
	c.send()
	c.RxBytes += 132
	c.RxPackets++
}

func TestAPeerThatIsSentNothingStaysWhatItWas(t *testing.T) {
	c := newCourse()
	c.look()
	c.pass(time.Hour, nil)
	require.Empty(t, c.health(), "it was never spoken with")
	c.shake()
	c.pass(time.Second, nil)
	require.Equal(t, []bool{true}, c.health())
	c.pass(24*time.Hour, nil)
	require.Empty(t, c.health(), "its handshake is a day old, but nothing was asked of it")
	require.Empty(t, *c.ward.sick())
}

func TestAPeerThatAnswersIsWell(t *testing.T) {
	c := newCourse()
	c.look()
	c.shake()
	second := 0
	c.pass(time.Hour, func() {
		if second++; second%120 == 0 {
			c.shake()
		}
		c.exchange()
	})
	require.Equal(t, []bool{true}, c.health())

	// It answers data it has nothing to say to after ten seconds, and not at all to
	// the keepalives of this end, which have no packets.
	c.pass(time.Hour, func() {
		if second++; second%120 == 0 {
			c.shake()
		}
		if second%20 == 0 {
			c.send()
		}
		if second%20 == 11 {
			c.RxBytes += 32
		}
		if second%25 == 0 {
			c.TxBytes += 32
		}
	})
	require.Empty(t, c.health())

	// As the responder, this end waits for the session to end before it calls.
	c.shake()
	for range 10 {
		c.pass(rejectAfterTime+2*time.Second, func() {
			if second++; second%25 == 0 {
				c.TxBytes += 32
			}
		})
		c.try()
		c.pass(time.Second, nil)
		c.shake()
	}
	require.Empty(t, c.health())
}

func TestAPeerThatDoesNotAnswerPacketsIsIll(t *testing.T) {
	c := newCourse()
	c.shake()
	c.look()
	require.Equal(t, []bool{true}, c.health(), "it was faster than the first look")
	second := 0
	c.pass(silentAfter, func() {
		if second++; second%5 == 1 {
			c.send()
		}
	})
	require.Empty(t, c.health(), "not yet")
	c.pass(time.Second, nil)
	require.Equal(t, []bool{false}, c.health())
	require.Equal(t, map[peerID]bool{{"web", c.PublicKey}: true}, *c.ward.sick())
	c.pass(time.Hour, c.send)
	require.Empty(t, c.health(), "said once")
	c.pass(time.Hour, nil)
	require.Empty(t, c.health(), "nothing else was heard of it since")

	c.shake()
	c.pass(soundAfter, nil)
	require.Empty(t, c.health(), "not yet")
	c.pass(time.Second, nil)
	require.Equal(t, []bool{true}, c.health())
	require.Empty(t, *c.ward.sick())
}

func TestAPeerThatDoesNotAnswerHandshakesIsIll(t *testing.T) {
	c := newCourse()
	c.look()
	second := 0
	try := func() {
		if second++; second%5 == 1 {
			c.try()
		}
	}
	c.pass(shunnedAfter, try)
	require.Empty(t, c.health(), "not yet")
	c.pass(time.Second, try)
	require.Equal(t, []bool{false}, c.health(), "it never was well, and is known not to be")
	c.shake()
	c.pass(time.Minute, nil)
	require.Equal(t, []bool{true}, c.health())

	// Keepalives alone find out, when the session has ended.
	c.pass(rejectAfterTime-time.Minute-time.Second, func() { c.TxBytes += 32 })
	require.Empty(t, c.health())
	c.pass(shunnedAfter+10*time.Second, try)
	require.Equal(t, []bool{false}, c.health())
}

func TestOneHandshakeLostNowAndThenIsNoIllness(t *testing.T) {
	c := newCourse()
	c.shake()
	c.look()
	c.health()
	for range 100 {
		c.pass(rejectAfterTime, nil)
		c.try() // as when somebody knocks once, and gives up
		c.pass(10*time.Minute, nil)
	}
	require.Empty(t, c.health())
}

func TestAPeerThatAnswersNowAndThenIsToldOfSeldom(t *testing.T) {
	c := newCourse()
	c.shake()
	c.look()
	c.health()
	second := 0
	c.pass(10*time.Minute, func() {
		c.send()
		if second++; second%40 == 0 { // for a moment in forty seconds
			c.shake()
		}
	})
	changes := c.health()
	require.LessOrEqual(t, len(changes), 2*10*60/40+1)
	for i, healthy := range changes {
		require.Equal(t, i%2 == 1, healthy, "they alternate")
	}
}

func TestADeviceMadeAnewBeginsAnew(t *testing.T) {
	c := newCourse()
	c.shake()
	c.pass(time.Minute, c.exchange)
	c.health()
	c.TxBytes, c.RxBytes, c.TxPackets, c.RxPackets = 0, 0, 0, 0
	c.LastHandshake = time.Time{}
	c.pass(2*time.Second, c.try)
	c.shake()
	c.pass(time.Minute, c.exchange)
	require.Empty(t, c.health())
}

func TestAPeerThatIsRemovedIsForgotten(t *testing.T) {
	c := newCourse()
	c.shake()
	c.pass(time.Minute, c.send)
	require.Equal(t, []bool{true, false}, c.health())
	c.ward.begin()
	require.True(t, c.ward.end(), "it was ill")
	require.Empty(t, c.ward.patients)
	require.Empty(t, *c.ward.sick())
	c.ward.begin()
	require.False(t, c.ward.end())
}

func TestAChangeOfAddressIsTold(t *testing.T) {
	c := newCourse()
	c.look()
	for _, a := range []string{"192.0.2.1:51820", "", "192.0.2.1:51820", "[2001:db8::1]:4500"} {
		if c.Addr = (netip.AddrPort{}); a != "" {
			c.Addr = netip.MustParseAddrPort(a)
		}
		c.pass(3*time.Second, nil)
	}
	key := c.PublicKey.String()
	require.Equal(t, []wire.Event{
		wire.NATEndpointChanged{Pubkey: key, Endpoint: "192.0.2.1:51820"},
		wire.NATEndpointChanged{Pubkey: key, Endpoint: "192.0.2.1:51820"},
		wire.NATEndpointChanged{Pubkey: key, Endpoint: "[2001:db8::1]:4500"},
	}, c.told)

	c = newCourse()
	c.Endpoint, c.Addr = "peer.test:51820", netip.MustParseAddrPort("192.0.2.1:51820")
	c.pass(3*time.Second, nil)
	require.Empty(t, c.told, "it is where it was said to be")
	c = newCourse()
	c.Addr = netip.MustParseAddrPort("192.0.2.1:51820")
	c.pass(3*time.Second, nil)
	require.Len(t, c.told, 1, "it called before the first look")
}

func TestALookAtPeersDoesNotAllocate(t *testing.T) {
	c := newCourse()
	c.shake()
	c.look()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		c.exchange()
		c.look()
	}))
}
