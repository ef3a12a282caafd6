// Command embed puts an http.Client and an http.Server on an overlay, each on a
// node of its own inside this program, which needs no privilege.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/netip"
	"os"

	"github.com/overlayd/overlayd/netstack"
	"github.com/overlayd/overlayd/overlay"
)

func main() {
	ctx := context.Background()
	key, err := overlay.GeneratePrivateKey()
	check(err)
	theirs, endpoint := serve(key.Public()) // as another program, anywhere, might

	stack, err := netstack.New(netstack.Config{Addrs: []netip.Prefix{netip.MustParsePrefix("10.200.0.1/16")}})
	check(err)
	node, err := overlay.New(overlay.Config{PrivateKey: key, Device: stack.Device()})
	check(err)
	defer node.Close()
	err = node.SetPeer(ctx, overlay.Peer{
		PublicKey:  theirs,
		Endpoint:   endpoint, // "host:port"
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.200.0.2/32")},
	})
	check(err)
	client := http.Client{Transport: &http.Transport{DialContext: stack.DialContext}}
	resp, err := client.Get("http://10.200.0.2/")
	check(err)

	_, err = io.Copy(os.Stdout, resp.Body)
	check(err)
}

// serve starts the other node, with an HTTP server, for one client.
func serve(client overlay.PublicKey) (key overlay.PublicKey, endpoint string) {
	private, err := overlay.GeneratePrivateKey()
	check(err)
	stack, err := netstack.New(netstack.Config{Addrs: []netip.Prefix{netip.MustParsePrefix("10.200.0.2/16")}})
	check(err)
	node, err := overlay.New(overlay.Config{PrivateKey: private, Device: stack.Device()})
	check(err)
	err = node.SetPeer(context.Background(), overlay.Peer{
		PublicKey:  client, // which calls first, from wherever it is
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.200.0.1/32")},
	})
	check(err)

	listener, err := stack.Listen("tcp", ":80")
	check(err)
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "Hello from %s on the overlay.\n", r.Host)
	}))
	return node.PublicKey(), fmt.Sprintf("127.0.0.1:%d", node.ListenPort())
}

func check(err error) {
	if err != nil {
		log.Fatalln("embed:", err)
	}
}
