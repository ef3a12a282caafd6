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
	origin = "overlay.internal" // of the names
	web    = "web." + origin

	size  = 256 << 20        // bytes of generated data
	pings = 1000             // round trips measured
	wait  = 10 * time.Second // for an answer, or for the next byte
)

func main() {
	file := flag.String("file", "", "download the file at `PATH` instead of generated data")
	asJSON := flag.Bool("json", false, "print one JSON object instead of a progress bar and tables")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "quickstart: %q is more than is wanted here\n", flag.Arg(0))
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
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, src source, p *printer) error {
	p.reading(src)
	want, err := src.sum(ctx)
	p.wipe()
	if err != nil {
		return err
	}

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
	if err := errors.Join(b.serveNames(origin, web), b.serveData(src), a.meet(ctx, b)); err != nil {
		return err
	}
	p.hosts(a, b)

	r := result{Name: web}
	if r.HandshakeMS, err = handshake(ctx, a, b); err != nil {
		return err
	}
	if r.RTT, err = roundTrips(ctx, a, b); err != nil {
		return err
	}
	if r.Addr, err = lookup(ctx, a, web); err != nil {
		return err
	}
	p.found(web, r.Addr, src)
	r.download, err = fetch(ctx, a.stack.DialContext, "http://"+web+"/", wait, p.progress)
	p.wipe()
	if err != nil {
		return err
	}
	r.OK = r.sum == want
	if err := p.result(r, a, b); err != nil {
		return err
	}
	if !r.OK {
		return fmt.Errorf("what arrived is not what was sent: SHA-256 %x instead of %x", r.sum, want)
	}
	return nil
}
