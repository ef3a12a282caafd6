package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/overlayd/overlayd/ipam"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// asProgram makes the test binary be the program.
const asProgram = "QUICKSTART_EXAMPLE"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

func TestAnArgumentIsRefused(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "extra")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	out, err := cmd.CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, 2, exit.ExitCode())
	require.Contains(t, string(out), "quickstart: \"extra\" is more than is wanted here\nUsage")
}

func TestSmallAmountsHaveDigits(t *testing.T) {
	require.Equal(t, "0.31 ms", took(0.000312))
	require.Equal(t, "1.25 s", took(1.25))
	require.Equal(t, "0.26 Mbit/s", rate(0.000264))
	require.Equal(t, "2.50 Gbit/s", rate(2.5))
	r := result{download: download{Seconds: 0.0003124, Gbps: 0.0002641}}.rounded()
	require.Equal(t, 0.000312, r.Seconds)
	require.Equal(t, 0.000264, r.Gbps)
}

func TestRunPrintsOneJSONObject(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), generated(1<<20), &printer{out: &out, json: true}))
	require.Regexp(t, regexp.MustCompile(`^{"handshake_ms":[\d.]+,"rtt_us":{"p50":[\d.]+,"p99":[\d.]+},`+
		`"bytes":1048576,"seconds":[\d.]+,"gbps":[\d.]+,"sha256_ok":true,`+
		`"name":"web\.overlay\.internal","addr":"10\.200\.0\.2"}\n$`), out.String())
	var r result
	require.NoError(t, json.Unmarshal(out.Bytes(), &r))
	require.Positive(t, r.HandshakeMS)
	require.Positive(t, r.RTT.P50)
	require.GreaterOrEqual(t, r.RTT.P99, r.RTT.P50)
	require.Positive(t, r.Seconds)
	require.Positive(t, r.Gbps)
}

func TestRunPrintsATableForPeople(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.WriteFile(path, make([]byte, 100_000), 0o600))
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), fromFile(path), &printer{out: &out}))
	for _, want := range []string{
		"Node a found web.overlay.internal at 10.200.0.2, through the overlay, and downloads " + path,
		"handshake", "round trip", "97.7 KiB in ", " matches\n", "a's peer b", "b's peer a",
	} {
		require.Contains(t, out.String(), want)
	}
	require.NotContains(t, out.String(), "\r", "the bar is for terminals only")
}

func TestRunDrawsABarOnATerminal(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), generated(1<<20), &printer{out: &out, live: true}))
	require.Contains(t, out.String(), "\r  ")
	require.Contains(t, out.String(), " of 1.0 MiB, ")
}

func TestRunTellsThatOtherBytesArrived(t *testing.T) {
	var out bytes.Buffer
	err := run(t.Context(), changing(), &printer{out: &out, json: true})
	require.ErrorContains(t, err, "what arrived is not what was sent")
	require.Contains(t, out.String(), `"sha256_ok":false`)
}

// changing is data that is different each time it is read.
func changing() source {
	return source{"changing data", func() (io.ReadCloser, int64, error) {
		return io.NopCloser(io.LimitReader(rand.NewChaCha8([32]byte{byte(rand.Uint32()), byte(rand.Uint32())}), 4096)), 4096, nil
	}}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := run(ctx, generated(64<<20), &printer{live: true, out: writerFunc(func(b []byte) (int, error) {
		if b[0] == '\r' { // the bar: the download has begun
			cancel()
		}
		return len(b), nil
	})})
	require.ErrorIs(t, err, context.Canceled)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestFetchTellsWhatWentWrong(t *testing.T) {
	for name, test := range map[string]struct {
		serve http.HandlerFunc
		stall time.Duration
		want  string
	}{
		"the server stops sending": {
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "9")
				io.WriteString(w, "only")
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			},
			2 * time.Second, // within which the first bytes have to come
			"the download stalled: no byte for 2s, after 4 bytes",
		},
		"the server never answers": {
			func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			200 * time.Millisecond,
			"the download stalled: no byte for 200ms, after 0 bytes",
		},
		"the data ends too early": {
			func(w http.ResponseWriter, r *http.Request) {
				source{"", func() (io.ReadCloser, int64, error) {
					return io.NopCloser(iotest.TimeoutReader(strings.NewReader("only"))), 9, nil
				}}.ServeHTTP(w, r)
			},
			time.Minute,
			"the download broke off after 4 bytes of 9: unexpected EOF",
		},
		"the data cannot be read": {
			fromFile("/nonexistent").ServeHTTP,
			time.Minute,
			"the download did not begin: the server says 500 Internal Server Error",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(test.serve)
			defer server.Close()
			_, err := fetch(t.Context(), new(net.Dialer).DialContext, server.URL, test.stall, func(download, int64) {})
			require.EqualError(t, err, test.want)
		})
	}
}

func TestFetchTellsThatNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	_, err = fetch(t.Context(), new(net.Dialer).DialContext, "http://"+l.Addr().String(), wait, func(download, int64) {})
	require.ErrorContains(t, err, "the download did not begin: ")
}

func TestLookupTellsWhichNameIsMissing(t *testing.T) {
	a, _ := pair(t)
	_, err := lookup(t.Context(), a, "wep."+origin)
	require.ErrorContains(t, err, "wep."+origin)
	require.ErrorContains(t, err, "no such host")
}

func TestPingTellsWhoIsSilent(t *testing.T) {
	a, b := pair(t)
	b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := ping(ctx, a, b)
	require.ErrorContains(t, err, "node b does not answer")
}

// pair is two joined hosts of which b serves the zone and a asks it.
func pair(t *testing.T) (a, b *host) {
	pool := netip.MustParsePrefix("10.200.0.0/16")
	addrs, err := ipam.NewMemory(ipam.Config{Pools: []netip.Prefix{pool}})
	require.NoError(t, err)
	a, err = newHost(addrs, pool, "a")
	require.NoError(t, err)
	t.Cleanup(a.Close)
	b, err = newHost(addrs, pool, "b")
	require.NoError(t, err)
	t.Cleanup(b.Close)
	require.NoError(t, b.serveNames(origin, web))
	require.NoError(t, a.meet(t.Context(), b))
	return a, b
}
