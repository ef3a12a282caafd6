package dnsd

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// A pipeUpstream answers over pipes, so that it may live in a bubble of its own
// time.
type pipeUpstream struct {
	answer atomic.Pointer[func(raw []byte, tcp bool) [][]byte]
	asked  atomic.Int32
}

func (u *pipeUpstream) set(f func(raw []byte, tcp bool) [][]byte) { u.answer.Store(&f) }

func (u *pipeUpstream) dial(_ context.Context, network, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		buf := make([]byte, 65535)
		for {
			n, err := theirs.Read(buf)
			if err != nil {
				return
			}
			if network == "tcp" && n == 2 {
				continue
			}
			u.asked.Add(1)
			raw := buf[:n]
			if network == "tcp" {
				raw = raw[2:]
			}
			for _, answer := range (*u.answer.Load())(append([]byte(nil), raw...), network == "tcp") {
				if network == "tcp" {
					answer = append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)
				}
				if _, err := theirs.Write(answer); err != nil {
					return
				}
			}
		}
	}()
	return ours, nil
}

// inBubble runs a test in a bubble of its own time, with a server that forwards
// to up.
func inBubble(t *testing.T, test func(t *testing.T, s *Server, up *pipeUpstream)) {
	synctest.Test(t, func(t *testing.T) {
		up := new(pipeUpstream)
		s, err := New(Config{Forward: &Forward{
			Upstreams: []Upstream{{Addr: netip.MustParseAddrPort("192.0.2.53:53")}}, Dial: up.dial,
		}})
		require.NoError(t, err)
		defer s.Close()
		test(t, s, up)
	})
}

// look asks as a client over UDP does: in place, and generally if need be.
func look(t *testing.T, s *Server, name string) *dns.Msg {
	m := question1(name, dns.TypeA)
	m.SetEdns0(1232, false)
	query, err := m.Pack()
	require.NoError(t, err)
	answer := inPlace(t, s, query, local)
	if answer == nil {
		from := local
		from.recurse = true
		answer = s.handle(t.Context(), query, from)
	}
	resp := new(dns.Msg)
	require.NoError(t, resp.Unpack(answer))
	return resp
}

func TestAnswersAreKeptForTheirTime(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Server, up *pipeUpstream) {
		up.set(answers(0, "example.com. 5 IN CNAME web.example.com.", "web.example.com. 60 IN A 192.0.2.1"))
		for age := range uint32(5) {
			resp := look(t, s, "example.com.")
			require.Equal(t, 5-age, resp.Answer[0].Header().Ttl, "RFC 1035 3.2.1: the time that is left")
			require.Equal(t, 60-age, resp.Answer[1].Header().Ttl)
			time.Sleep(time.Second)
		}
		require.EqualValues(t, 1, up.asked.Load())
		look(t, s, "example.com.")
		require.EqualValues(t, 2, up.asked.Load())
	})
}

func TestAnswersWithoutTimeAreNotKept(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Server, up *pipeUpstream) {
		for i, records := range [][]string{
			{"example.com. 0 IN A 192.0.2.1"},
			{"example.com. 60 IN CNAME web.example.com."}, // RFC 2308 section 5: no SOA, no time
			{"example.com. 4294967295 IN A 192.0.2.1"},    // RFC 2181 section 8
		} {
			up.set(answers(0, records...))
			for range 2 {
				resp := look(t, s, "example.com.")
				require.Len(t, resp.Answer, 1)
				require.Empty(t, resp.IsEdns0().Option)
				if i != 1 {
					require.Zero(t, resp.Answer[0].Header().Ttl)
				}
			}
			require.EqualValues(t, 2*(i+1), up.asked.Load())
		}
		require.Zero(t, s.Stats().CacheEntries)
	})
}

func TestAnswersInUseAreRenewedBeforeTheyExpire(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Server, up *pipeUpstream) {
		up.set(answers(0, "example.com. 100 IN A 192.0.2.1"))
		look(t, s, "example.com.")
		time.Sleep(89 * time.Second)
		look(t, s, "example.com.")
		synctest.Wait()
		require.EqualValues(t, 1, up.asked.Load())
		time.Sleep(2 * time.Second)
		require.EqualValues(t, 9, look(t, s, "example.com.").Answer[0].Header().Ttl)
		look(t, s, "example.com.")
		synctest.Wait()
		require.EqualValues(t, 2, up.asked.Load(), "once, whoever asks")
		require.EqualValues(t, 100, look(t, s, "example.com.").Answer[0].Header().Ttl)
		require.EqualValues(t, 1, s.Stats().CachePrefetches)
	})
}

func TestExpiredAnswersAreServedWhenNobodyAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Server, up *pipeUpstream) {
		up.set(answers(0, "example.com. 60 IN A 192.0.2.1"))
		look(t, s, "example.com.")
		time.Sleep(61 * time.Second)
		up.set(silent)
		stale := func(wait time.Duration) {
			began := time.Now()
			resp := look(t, s, "example.com.")
			require.Equal(t, wait, time.Since(began))
			require.Len(t, resp.Answer, 1)
			require.EqualValues(t, staleTTL, resp.Answer[0].Header().Ttl, "RFC 8767 4")
			require.Equal(t, dns.ExtendedErrorCodeStaleAnswer, resp.IsEdns0().Option[0].(*dns.EDNS0_EDE).InfoCode, "RFC 8914 4.4")
		}
		stale(staleAfter) // RFC 8767 section 5: the client response timer
		time.Sleep(resolveTimeout)
		synctest.Wait()
		asked := up.asked.Load()
		stale(0) // and the failure recheck timer
		require.Equal(t, asked, up.asked.Load())
		time.Sleep(staleRetry)
		stale(staleAfter)
		require.Greater(t, up.asked.Load(), asked)

		time.Sleep(staleRetry)
		up.set(answers(dns.RcodeServerFailure))
		stale(0) // a failure is no reason to forget either
		time.Sleep(staleRetry)
		up.set(answers(0, "example.com. 60 IN A 192.0.2.2"))
		require.Equal(t, "192.0.2.2", look(t, s, "example.com.").Answer[0].(*dns.A).A.String())

		time.Sleep(maxStale + time.Minute)
		up.set(silent)
		require.Equal(t, dns.RcodeServerFailure, look(t, s, "example.com.").Rcode, "but not for ever")
		require.EqualValues(t, 4, s.Stats().CacheStale)
	})
}

func TestFailuresAreRememberedForAMoment(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Server, up *pipeUpstream) {
		up.set(answers(dns.RcodeServerFailure))
		for range 3 {
			resp := look(t, s, "example.com.")
			require.Equal(t, dns.RcodeServerFailure, resp.Rcode)
		}
		require.EqualValues(t, 1, up.asked.Load(), "RFC 9520 3.2")
		time.Sleep(failureTTL * time.Second)
		look(t, s, "example.com.")
		require.EqualValues(t, 2, up.asked.Load())
	})
}

func TestASilentUpstreamIsProbedAtGrowingIntervals(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Server, up *pipeUpstream) {
		up.set(silent)
		r := s.forward.named[0]
		now := time.Now()
		for range failuresDown {
			require.Equal(t, healthy, r.health(now))
			r.report(now, 0, context.DeadlineExceeded)
		}
		wait := minDown
		for range 10 {
			require.Equal(t, down, r.health(now.Add(wait-1)))
			now = now.Add(wait)
			require.Equal(t, probe, r.health(now))
			require.Equal(t, down, r.health(now), "one probe at a time")
			r.report(now, 0, context.DeadlineExceeded)
			wait = min(2*wait, maxDown)
		}
		require.Equal(t, maxDown, wait)
		r.report(now, 0, nil)
		require.Equal(t, healthy, r.health(now))
	})
}

func TestTheCacheIsBounded(t *testing.T) {
	c := newCache(100)
	require.Len(t, c.sets, 16)
	a := kind{recordType: dns.TypeA}
	put := func(i int, now int64) {
		e := &entry{question: question{fmt.Sprint(i), a}, expires: now + 10, keep: now + 20}
		c.put(e, now)
	}
	get := func(i int) *entry {
		q := question{fmt.Sprint(i), a}
		return c.get(q.hash(), []byte(q.name), a)
	}
	for i := range 10_000 {
		put(i, int64(i))
		require.NotNil(t, get(i), "what was kept last is there")
	}
	require.Equal(t, 128, c.len())
	for range 3 {
		put(7, 20_000)
	}
	require.Equal(t, 128, c.len(), "a question has one entry")

	t.Run("and forgets what is missed least", func(t *testing.T) {
		c = newCache(cacheWays)
		for i := range cacheWays {
			put(i, 0)
		}
		get(0).used.Store(5)
		for i := range cacheWays - 1 {
			put(100+i, 6)
		}
		require.NotNil(t, get(0))
		put(200, 7)
		require.Nil(t, get(0))
	})
	t.Run("and keeps no entry that is too long, or has no time", func(t *testing.T) {
		c = newCache(1)
		c.put(&entry{expires: 10, body: make([]byte, maxCached+1)}, 0)
		c.put(&entry{expires: 10}, 10)
		require.Zero(t, c.len())
	})
	require.Nil(t, newCache(-1))
	require.Nil(t, (*cache)(nil).get(0, nil, a))
	(*cache)(nil).put(&entry{expires: 1}, 0)
}
