package overlay_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

func TestInterop(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		for _, test := range []struct {
			name      string
			six       bool // the endpoints
			preshared bool
			judge     bool // begins
			mtu       int
		}{
			{"over IPv4, ours begins", false, false, false, 1420},
			{"over IPv4, theirs begins", false, false, true, 1280},
			{"over IPv4 with a preshared key, ours begins", false, true, false, 1280},
			{"over IPv4 with a preshared key, theirs begins", false, true, true, 1420},
			{"over IPv6, ours begins", true, false, false, 1280},
			{"over IPv6, theirs begins", true, false, true, 1420},
			{"over IPv6 with a preshared key, ours begins", true, true, false, 1420},
			{"over IPv6 with a preshared key, theirs begins", true, true, true, 1280},
		} {
			t.Run(test.name, func(t *testing.T) {
				ours, theirs := newRootless(t, engine, 1, test.mtu), newJudge(t, 2, test.mtu)
				var psk overlay.PresharedKey
				if test.preshared {
					psk = secret(t)
				}
				var first, second host = ours, theirs
				if test.judge {
					first, second = theirs, ours
				}
				first.know(t, second, loopback(second.port(), test.six), psk)
				second.know(t, first, "", psk)

				datagrams(t, first, second, false, func(sent int) bool { return sent == 50 })
				datagrams(t, second, first, true, func(sent int) bool { return sent == 50 })
				converse(t, first, second, true, 5, nil)
				converse(t, second, first, false, 5, nil)
				for _, six := range []bool{false, true} {
					_, err := ours.stack.Ping(t.Context(), theirs.addr(six))
					require.NoError(t, err)
				}
				status := ours.Peers()[0]
				require.Equal(t, loopback(theirs.port(), test.six), status.Addr.String())
				require.Equal(t, test.preshared, status.Preshared)
				require.WithinDuration(t, time.Now(), status.LastHandshake, time.Minute)
			})
		}
	})
}

func TestInteropInBulk(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		ours, theirs := newRootless(t, engine, 1, 1420), newJudge(t, 2, 1420)
		ours.know(t, theirs, loopback(theirs.port(), false), overlay.PresharedKey{})
		theirs.know(t, ours, "", overlay.PresharedKey{})
		bulk(t, ours, theirs, false, 2<<20)
		bulk(t, theirs, ours, true, 2<<20)
	})
}

func TestInteropWithAWrongPresharedKey(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		ours, theirs := newRootless(t, engine, 1, 1420), newJudge(t, 2, 1420)
		ours.know(t, theirs, loopback(theirs.port(), false), secret(t))
		theirs.know(t, ours, loopback(ours.port(), false), secret(t))
		c, err := ours.dialUDP(netip.AddrPortFrom(theirs.addr(false), 7))
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Write([]byte("unheard"))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return ours.Peers()[0].TxBytes >= 148 }, 30*time.Second, time.Millisecond)
		require.Never(t, func() bool { return !ours.Peers()[0].LastHandshake.IsZero() }, 200*time.Millisecond, 10*time.Millisecond)
	})
}

func TestInteropWhileOneSideRoams(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, engine overlay.Engine) {
		for _, test := range []struct {
			name string
			six  bool
			ours bool // roams
		}{
			{"ours, over IPv4", false, true},
			{"ours, over IPv6", true, true},
			{"theirs, over IPv4", false, false},
			{"theirs, over IPv6", true, false},
		} {
			t.Run(test.name, func(t *testing.T) {
				ours, theirs := newRootless(t, engine, 1, 1420), newJudge(t, 2, 1420)
				var roams, stays host = ours, theirs
				if !test.ours {
					roams, stays = theirs, ours
				}
				r := newRelay(t, listen(t, loopback(0, test.six)), netip.MustParseAddrPort(loopback(stays.port(), test.six)))
				roams.know(t, stays, r.addr().String(), overlay.PresharedKey{})
				stays.know(t, roams, "", overlay.PresharedKey{})

				converse(t, roams, stays, false, 20, func(chunk int) {
					if chunk%10 == 5 {
						r.move(t)
						r.forget(1)
					}
				})
				require.Equal(t, r.from(), stays.seenAt(t, roams))
				converse(t, stays, roams, true, 20, func(chunk int) {
					if chunk%10 == 5 {
						r.move(t)
						// WireGuard follows who roams when it hears from it.
						datagrams(t, roams, stays, true, func(sent int) bool { return sent == 1 })
						require.Equal(t, r.from(), stays.seenAt(t, roams))
						r.forget(1)
					}
				})
				require.Equal(t, r.addr(), roams.seenAt(t, stays))
			})
		}
	})
}

func TestInteropThroughARekey(t *testing.T) {
	t.Parallel()
	type pair struct {
		name          string
		ours          *rootless
		theirs        *judge
		first, second host
	}
	var pairs []pair // at once, since each waits for wireguard-go's RekeyTimeout
	for _, engine := range engines {
		for _, judgeFirst := range []bool{false, true} {
			ours, theirs := newRootless(t, engine, 1, 1420), newJudge(t, 2, 1420)
			psk := secret(t)
			ours.know(t, theirs, loopback(theirs.port(), false), psk)
			theirs.know(t, ours, loopback(ours.port(), false), psk)
			p := pair{engine.String() + " after ours began", ours, theirs, ours, theirs}
			if judgeFirst {
				p = pair{engine.String() + " after theirs began", ours, theirs, theirs, ours}
			}
			datagrams(t, p.first, p.second, false, func(sent int) bool { return sent == 10 })
			pairs = append(pairs, p)
		}
	}
	for _, p := range pairs {
		before := p.ours.Peers()[0].LastHandshake
		time.Sleep(time.Until(before.Add(5100 * time.Millisecond)))
		p.theirs.rekey(t, p.ours.public())
		changed := 0
		datagrams(t, p.first, p.second, true, func(sent int) bool {
			if changed == 0 && p.ours.Peers()[0].LastHandshake.After(before) {
				changed = sent
			}
			return changed > 0 && sent > changed+500 || sent == 100_000
		})
		require.Positive(t, changed, p.name)
		converse(t, p.ours, p.theirs, false, 5, nil)
		converse(t, p.theirs, p.ours, false, 5, nil)
	}
}
