// Command container puts two containers, on two hosts, on one overlay, and has each
// fetch a page of the other by name. The hosts are network namespaces with an
// overlayd in each and a cable between them; the containers are namespaces with a
// web server. All of it is gone when the program ends, however it ends.
//
//	sudo go run ./examples/container
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/overlayd/overlayd/daemon/client"
)

func main() {
	runtime.LockOSThread() // what this thread starts ends with it
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "host":
		err = beHost(ctx, os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "container":
		err = beContainer(ctx, os.Args[2])
	case len(os.Args) > 1:
		fmt.Fprintf(os.Stderr, "container: %q is more than is wanted here\nusage: sudo go run ./examples/container\n", os.Args[1])
		os.Exit(2)
	default:
		err = run(ctx)
	}
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted: everything is removed")
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "container:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("namespaces and links need root, on Linux: sudo go run ./examples/container")
	}
	dir, err := os.MkdirTemp("", "overlayd-example-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	a := &host{id: 1, name: "a", addr: "192.0.2.1", slice: "10.200.1.0/24"}
	b := &host{id: 2, name: "b", addr: "192.0.2.2", slice: "10.200.2.0/24"}

	step("two hosts, %s and %s, each with an overlayd, and a cable between them", a.addr, b.addr)
	for _, h := range []*host{a, b} {
		var end func()
		if h.process, end, err = spawn(ctx, "host", filepath.Join(dir, h.name)); err != nil {
			return err
		}
		defer end()
		endpoint := client.DataDirEndpoint(filepath.Join(dir, h.name))
		if h.daemon, err = client.Dial(ctx, client.Config{Endpoint: endpoint, Attempts: client.Impatient}); err != nil {
			return err
		}
		defer h.daemon.Close()
	}
	if err := cable(ctx, a, b); err != nil {
		return err
	}
	step("on each an overlay with a network for a service, and the other as its peer")
	for _, setUp := range []func() error{
		func() error { return a.setUp(ctx) }, func() error { return b.setUp(ctx) },
		func() error { return a.meet(ctx, b) }, func() error { return b.meet(ctx, a) },
	} {
		if err := setUp(); err != nil {
			return err
		}
	}
	step("on each a container, with a name that both know")
	for _, h := range []*host{a, b} {
		var end func()
		if h.container, end, err = spawn(ctx, "container", h.name); err != nil {
			return err
		}
		defer end()
		if err := h.attach(ctx, a, b); err != nil {
			return err
		}
	}
	step("each container asks the other, by name")
	if err := a.curl(ctx, dir, b.url()); err != nil {
		return err
	}
	return b.curl(ctx, dir, a.url())
}
