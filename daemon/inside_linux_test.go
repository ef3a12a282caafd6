package daemon

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func (x *box) sh(t *testing.T, command string) string {
	t.Helper()
	out, err := x.ns.Command("sh", "-c", command).CombinedOutput()
	require.NoError(t, err, "%s: %s", command, out)
	return string(out)
}

// inside is what a container has been given, as ip(8) lists it, in an order of its own.
func (x *box) inside(t *testing.T) string {
	t.Helper()
	return x.sh(t, "ip -o link; (ip -o addr; ip route; ip -6 route) | sort")
}

func TestWhatIsTakenFromInsideAContainerIsPutBack(t *testing.T) {
	b := newAttachBed(t)
	x, y := newBox(t), newBox(t)
	b.attach(x)
	to := b.attach(y)
	whole := x.inside(t)
	for _, damage := range []string{
		"ip route del default",
		"ip -6 route del default",
		"ip route flush dev eth1",
		"ip addr flush dev eth0",
		"ip addr flush dev eth1",
		"ip link set eth0 down",
		"ip link set eth0 mtu 1300",
		"ip link set eth1 down",
		"ip neigh flush dev eth1; ip link set eth1 down; ip addr flush dev eth1",
	} {
		b.d.attachments.keeper.forget(b.d.attachments.all()...)
		x.sh(t, damage)
		if damage != "ip route del default" { // which is seen to by itself
			b.noticed(x)
			b.d.lookAt(b.d.attachments.all())
		}
		soon(t, func() bool { return x.inside(t) == whole })
		x.pings(t, to.Gateway)
		x.pings(t, to.GlobalIP)
	}
	b.agree(x, y)
	require.NotContains(t, b.d.degraded(), partAttachments)
}

// noticed asserts that a look into a container finds something missing.
func (b *attachBed) noticed(x *box) {
	b.t.Helper()
	for _, a := range b.d.attachments.records() {
		if a.PID == x.pid {
			require.False(b.t, b.d.wholeInside(containerIn(a)))
			return
		}
	}
	require.Fail(b.t, "it is not attached")
}

func TestWhatAContainerHasAddedStays(t *testing.T) {
	b := newAttachBed(t)
	x, y := newBox(t), newBox(t)
	b.attach(x)
	to := b.attach(y)
	var l net.Listener
	var c net.Conn
	var err error
	y.ns.Do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(to.IP, 0).String()) })
	require.NoError(t, err)
	defer l.Close()
	x.ns.Do(func() { c, err = net.Dial("tcp", l.Addr().String()) })
	require.NoError(t, err)
	defer c.Close()
	s, err := l.Accept()
	require.NoError(t, err)
	defer s.Close()

	x.sh(t, "ip addr add 192.0.2.5/24 dev eth0; ip route add 203.0.113.0/24 via 192.0.2.6; ip route add default via 192.0.2.7 metric 50; ip -6 addr add 2001:db8::5/64 nodad dev eth0")
	whole := x.inside(t)
	x.sh(t, "ip route del default metric 0; ip -6 route del default")
	soon(t, func() bool { return x.inside(t) == whole })
	_, err = c.Write([]byte("still here"))
	require.NoError(t, err)
	got := make([]byte, 10)
	require.NoError(t, s.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = s.Read(got)
	require.NoError(t, err)
	require.Equal(t, "still here", string(got))
}

func TestAContainersOwnDefaultRouteIsLeftAndToldOf(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	b.attach(x)
	whole := x.inside(t)
	x.sh(t, "ip route replace default dev eth1; ip -6 route del default")
	soon(t, func() bool { return b.d.degraded()[partAttachments] != "" })
	require.Contains(t, b.d.degraded()[partAttachments], "a route of its own")
	require.Contains(t, b.d.degraded()[partAttachments], "0.0.0.0/0")
	require.Contains(t, x.sh(t, "ip route"), "default dev eth1")
	x.sh(t, "ip route del default dev eth1")
	soon(t, func() bool { return x.inside(t) == whole })
	b.d.lookForDamage()
	soon(t, func() bool { return b.d.degraded()[partAttachments] == "" })

	// It is attached all the same.
	x.sh(t, "ip route replace default dev eth1; ip route flush dev eth1 10.200.0.0/16")
	b.attach(x)
	require.Contains(t, x.sh(t, "ip route"), "default dev eth1")
	require.Contains(t, x.sh(t, "ip route"), "10.200.0.0/16 via")
	soon(t, func() bool { return b.d.degraded()[partAttachments] != "" })
}

func TestAContainerThatWantsNoRouteIsNotFought(t *testing.T) {
	b := newAttachBed(t)
	x := newBox(t)
	b.attach(x)
	for range maxRelapses + 1 {
		x.sh(t, "ip route del default")
		b.d.lookAt(b.d.attachments.all())
		require.Contains(t, x.sh(t, "ip route"), "default")
	}
	require.Contains(t, b.d.degraded()[partAttachments], "6 times")
	x.sh(t, "ip route del default")
	for range 3 {
		b.d.lookAt(b.d.attachments.all())
	}
	require.NotContains(t, x.sh(t, "ip route"), "default")
	require.Contains(t, b.d.degraded()[partAttachments], "6 times")

	b.attach(x)
	b.d.lookAt(b.d.attachments.all())
	require.Contains(t, x.sh(t, "ip route"), "default")
	require.NotContains(t, b.d.degraded(), partAttachments)
	x.end(t)
	soon(t, func() bool {
		k := b.d.attachments.keeper
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(k.losses) == 0
	})
}

func TestRelapsesAreMendedAfterLongerAndLongerTimes(t *testing.T) {
	k := newKeeper()
	var c container
	damage := errors.New("damage")
	now := time.Unix(1_700_000_000, 0)
	for range maxRelapses {
		require.NoError(t, k.restrained(c, now))
		require.NoError(t, k.mended(c, damage, now))
		now = now.Add(time.Second)
	}
	for _, wait := range []time.Duration{1, 2, 4, 8, 16, 32, 32} {
		require.NoError(t, k.restrained(c, now))
		require.ErrorContains(t, k.mended(c, damage, now), "times by now")
		now = now.Add(wait*time.Minute - time.Second)
		require.Error(t, k.restrained(c, now))
		now = now.Add(time.Second)
	}
	require.Error(t, k.mended(c, nil, now), "it has to stay so")
	now = now.Add(lastRespite)
	require.NoError(t, k.mended(c, nil, now))
	require.Empty(t, k.losses)

	// Rare ones are never too many.
	for range 10 * maxRelapses {
		require.NoError(t, k.mended(c, damage, now))
		now = now.Add(relapseTime)
	}
}
