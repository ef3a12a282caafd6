package netstack_test

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"

	"github.com/overlayd/overlayd/netstack"
	"github.com/overlayd/overlayd/packet"
)

// Two stacks whose devices are joined, where an overlay node would stand, and
// package net/http on both.
func Example() {
	server, err := netstack.New(netstack.Config{Addrs: []netip.Prefix{netip.MustParsePrefix("10.200.0.1/16")}})
	if err != nil {
		panic(err)
	}
	defer server.Close()
	client, err := netstack.New(netstack.Config{Addrs: []netip.Prefix{netip.MustParsePrefix("10.200.0.2/16")}})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	pump := func(from, to packet.Device) {
		b := packet.NewBatch(0)
		for from.ReadBatch(b) == nil && to.WriteBatch(b) == nil {
		}
	}
	go pump(server.Device(), client.Device())
	go pump(client.Device(), server.Device())

	l, err := server.Listen("tcp", ":80")
	if err != nil {
		panic(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello over the overlay")
	})}
	go web.Serve(l)
	defer web.Close()

	transport := &http.Transport{DialContext: client.DialContext}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://10.200.0.1/")
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	io.Copy(os.Stdout, resp.Body)
	// Output: hello over the overlay
}
