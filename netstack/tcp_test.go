package netstack

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"
)

func TestTCPConnIsANetConn(t *testing.T) {
	for _, over := range []struct {
		name   string
		ab, ba wire
	}{{"superpackets kept whole", whole, whole}, {"superpackets cut", cut, cut}} {
		for _, network := range []string{"tcp4", "tcp6"} {
			t.Run(over.name+" over "+network, func(t *testing.T) {
				nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
					a, b := newPairOver(t, Config{}, over.ab, over.ba)
					host := addrB4
					if network == "tcp6" {
						host = addrB6
					}
					c1, c2 = connect(t, a, b, network, host.Addr().String())
					return c1, c2, func() {
						c1.Close()
						c2.Close()
					}, nil
				})
			})
		}
	}
}

func TestHTTPWorksUnchanged(t *testing.T) {
	a, b := newPair(t)
	l, err := b.Listen("tcp", ":80")
	require.NoError(t, err)
	body := make([]byte, 4<<20)
	rand.Read(body)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write(body)
	})}
	served := make(chan error)
	go func() { served <- server.Serve(l) }()
	transport := &http.Transport{DialContext: a.DialContext}
	client := &http.Client{Transport: transport}
	for _, host := range []string{addrB4.Addr().String(), "[" + addrB6.Addr().String() + "]"} {
		resp, err := client.Get("http://" + host + "/")
		require.NoError(t, err)
		hash := sha256.New()
		_, err = io.Copy(hash, resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, fmt.Sprintf("%x", sha256.Sum256(body)), fmt.Sprintf("%x", hash.Sum(nil)))
	}
	transport.CloseIdleConnections()
	require.NoError(t, server.Shutdown(testContext(t)))
	require.ErrorIs(t, <-served, http.ErrServerClosed)
}
