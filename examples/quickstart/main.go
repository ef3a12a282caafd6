// Command quickstart shows the library at work in one process, without any
// privilege. It joins two WireGuard nodes over loopback UDP, gives them
// addresses, serves a name by DNS and data by HTTP on one of them, and downloads
// the data by that name from the other.
//
//	go run ./examples/quickstart
//	go run ./examples/quickstart -file PATH
//	go run ./examples/quickstart -json
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/overlayd/overlayd/ipam"
)

const (
	zone = "overlay.internal"
	name = "web." + zone

	size  = 256 << 20        // bytes of generated data
	pings = 1000             // round trips measured
	wait  = 10 * time.Second // for a packet, an answer or the next byte
)

func main() {
	file := flag.String("file", "", "download the file at `PATH` instead of generated data")
	asJSON := flag.Bool("json", false, "print one JSON object and nothing else")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once

	src := generated(size)
	if *file != "" {
		src = fromFile(*file)
	}
	err := run(ctx, src, newPrinter(os.Stdout, *asJSON))
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, src source, p *printer) error {
	// Every address of the overlay comes from one pool and has an owner.
	pool := netip.MustParsePrefix("10.200.0.0/16")
	addrs, err := ipam.NewMemory(ipam.Config{Pools: []netip.Prefix{pool}})
	if err != nil {
		return err
	}
	defer addrs.Close()

	a, err := newHost(addrs, pool, "a")
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := newHost(addrs, pool, "b")
	if err != nil {
		return err
	}
	defer b.Close()

	// Only a is told where the other is; b learns it when a calls.
	if err := b.node.SetPeer(ctx, a.asPeer("")); err != nil {
		return err
	}
	if err := a.node.SetPeer(ctx, b.asPeer(b.loopback())); err != nil {
		return err
	}
	for _, h := range []*host{a, b} {
		p.say("node %s has %s on the overlay, udp port %d, key %s", h.name, h.addr, h.node.ListenPort(), h.node.PublicKey())
	}

	// b has a web server and the overlay's name server; a asks the latter.
	stop, err := b.serve(src)
	if err != nil {
		return err
	}
	defer stop()
	if err := a.stack.SetDNS([]netip.AddrPort{netip.AddrPortFrom(b.addr, 53)}); err != nil {
		return err
	}

	r := result{Name: name}
	if r.HandshakeMS, err = handshake(ctx, a, b.addr); err != nil {
		return err
	}
	if r.RTT, err = roundTrips(ctx, a, b.addr); err != nil {
		return err
	}
	if r.Addr, err = lookup(ctx, a); err != nil {
		return err
	}
	p.say("%s is %s; node a downloads %s from there\n", name, r.Addr, src.what)
	r.download, err = fetch(ctx, a.stack.DialContext, src, wait, p.progress)
	p.endProgress()
	if err != nil {
		return err
	}
	if err := p.result(r, a, b); err != nil {
		return err
	}
	if !r.OK {
		return fmt.Errorf("what arrived is not what was sent: SHA-256 %x instead of %x", r.got, r.want)
	}
	return nil
}
