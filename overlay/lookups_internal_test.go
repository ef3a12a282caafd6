package overlay

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
)

// A script answers each lookup with the next of its lines; none is an error.
type script struct {
	mu    sync.Mutex
	lines [][]string
}

func (s *script) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lines) == 0 {
		panic("asked too often")
	}
	line := s.lines[0]
	s.lines = s.lines[1:]
	if line == nil {
		return nil, &net.DNSError{Err: "server misbehaving", IsTemporary: true}
	}
	var addrs []netip.Addr
	for _, a := range line {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs, nil
}

func TestWhatASilentPeersNameResolvesTo(t *testing.T) {
	for _, test := range []struct {
		name   string
		lookup [][]string
		want   []string // the address in use after each lookup
	}{
		{"every address is tried in turn", [][]string{{"127.0.0.1", "::1"}, {"127.0.0.1", "::1"}, {"127.0.0.1", "::1"}},
			[]string{"127.0.0.1", "::1", "127.0.0.1"}},
		{"the order of the answer may change", [][]string{{"127.0.0.1", "::1", "127.0.0.3"}, {"::1", "127.0.0.3", "127.0.0.1"}, {"127.0.0.1", "::1", "127.0.0.3"}},
			[]string{"127.0.0.1", "::1", "127.0.0.3"}},
		{"a new address replaces the old one", [][]string{{"127.0.0.1"}, {"127.0.0.2"}}, []string{"127.0.0.1", "127.0.0.2"}},
		{"new addresses begin with the first", [][]string{{"127.0.0.1"}, {"127.0.0.3", "127.0.0.2"}}, []string{"127.0.0.1", "127.0.0.3"}},
		{"a single address stays", [][]string{{"127.0.0.1"}, {"127.0.0.1"}}, []string{"127.0.0.1", "127.0.0.1"}},
		{"a failure keeps the last good address", [][]string{{"127.0.0.1"}, nil, nil, {"127.0.0.2"}},
			[]string{"127.0.0.1", "127.0.0.1", "127.0.0.2"}},
		{"an answer without a usable address is a failure", [][]string{{"127.0.0.1"}, {"0.0.0.0"}, {"ff02::1"}}, []string{"127.0.0.1", "127.0.0.1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, engine := range []Engine{EngineDefault, EngineWireGuardGo} {
				r := &script{lines: test.lookup}
				n := newQuietNode(t, engine, r)
				p := Peer{PublicKey: somePublicKey(t), Endpoint: "hub.example.net:1000"}
				require.NoError(t, n.SetPeer(t.Context(), p))
				for i, want := range test.want {
					if i > 0 {
						n.unreachable(p.PublicKey)
						n.lookups.running.Wait()
						n.unreachable(p.PublicKey) // too early, or the script would run out
						n.lookups.running.Wait()
						n.peers[p.PublicKey].endpoint.advanced = time.Time{}
					}
					require.Equal(t, netip.AddrPortFrom(netip.MustParseAddr(want), 1000), n.Peers()[0].Addr)
				}
				require.Empty(t, r.lines)
				require.NoError(t, n.Close())
			}
		})
	}
}

func TestOnlyNamesOfPeersOfTheNodeAreResolvedAgain(t *testing.T) {
	n := newQuietNode(t, EngineDefault, &script{})
	p := Peer{PublicKey: somePublicKey(t), Endpoint: "127.0.0.1:1000"}
	require.NoError(t, n.SetPeer(t.Context(), p))
	n.unreachable(p.PublicKey)
	n.unreachable(somePublicKey(t))
	n.lookups.running.Wait()
	require.NoError(t, n.Close())
	n.unreachable(p.PublicKey)
	require.Empty(t, n.lookups.busy)
}

// waiting never answers before its context ends.
type waiting struct{ begun chan struct{} }

func (w waiting) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	w.begun <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestLookupsOfSilentPeersAreBounded(t *testing.T) {
	r := &script{}
	n := newQuietNode(t, EngineDefault, r)
	var keys []PublicKey
	for range maxLookups + 5 {
		r.lines = append(r.lines, []string{"127.0.0.1"})
		keys = append(keys, somePublicKey(t))
		require.NoError(t, n.SetPeer(t.Context(), Peer{PublicKey: keys[len(keys)-1], Endpoint: "hub.example.net:1000"}))
	}
	w := waiting{make(chan struct{}, 100)}
	n.cfg.Resolver = w
	for range 2 {
		for _, key := range keys {
			n.unreachable(key)
		}
	}
	for range maxLookups {
		<-w.begun
	}
	require.Len(t, n.lookups.busy, maxLookups)
	require.NoError(t, n.Close(), "which ends them")
	require.Empty(t, w.begun, "one for each peer, and not for all")
}

func newQuietNode(t *testing.T, engine Engine, r Resolver) *Node {
	key, err := GeneratePrivateKey()
	require.NoError(t, err)
	n, err := New(Config{
		PrivateKey: key,
		Device:     testnet.NewDevice("dev", 1420, 1),
		Engine:     engine,
		Resolver:   r,
		Logger:     slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	require.NoError(t, err)
	t.Cleanup(func() { n.Close() })
	return n
}

func somePublicKey(t *testing.T) PublicKey {
	key, err := GeneratePrivateKey()
	require.NoError(t, err)
	return key.Public()
}
