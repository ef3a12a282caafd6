package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/overlayd/overlayd/bench/internal/report"
	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/testnet"
)

// A host is a network namespace with an overlayd in it, and a client of that.
type host struct {
	*client.Client
	ns       *testnet.Namespace
	endpoint string
	process  *exec.Cmd
	ended    chan struct{} // closed when the process has
	log      bytes.Buffer
}

func (b *bench) newHost(ctx context.Context) (h *host, err error) {
	dir, err := os.MkdirTemp(b.dir, "host-")
	if err != nil {
		return nil, err
	}
	h = &host{endpoint: filepath.Join(dir, "socket")}
	if h.ns, err = testnet.OpenNamespace(); err != nil {
		return nil, err
	}
	h.process = h.ns.Command(b.overlayd, "serve", "--data-dir", filepath.Join(dir, "data"), "--socket", h.endpoint, "--mode", "tun", "--log-level", "warn")
	h.process.Stderr = &h.log
	if err := h.process.Start(); err != nil {
		return nil, errors.Join(err, h.ns.Close())
	}
	trying, giveUp := context.WithCancel(ctx)
	defer giveUp()
	h.ended = make(chan struct{})
	go func() {
		h.process.Wait()
		giveUp()
		close(h.ended)
	}()
	if h.Client, err = h.dial(trying); err != nil {
		err = errors.Join(err, h.close())
		return nil, fmt.Errorf("start overlayd: %w\n%s", err, report.LastLines(h.log.String(), 10))
	}
	return h, nil
}

// dial makes a connection more.
func (h *host) dial(ctx context.Context) (*client.Client, error) {
	return client.Dial(ctx, client.Config{Endpoint: h.endpoint, Name: "bench"})
}

// close ends the daemon as SIGKILL does: the namespace takes away what it made.
func (h *host) close() error {
	if h.Client != nil {
		h.Client.Close()
	}
	h.process.Process.Kill()
	<-h.ended
	return h.ns.Close()
}

// memory is how many bytes of it the daemon has.
func (h *host) memory() (float64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(h.process.Process.Pid) + "/statm")
	if err != nil {
		return 0, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		return 0, fmt.Errorf("memory of overlayd: %w", err)
	}
	return float64(resident * int64(os.Getpagesize())), nil
}

// A service is one of a host's: ours, where theirs is a cni.
type service struct {
	*client.Client
	name string
}

// setup makes a service. Subnet may be empty.
func (h *host) setup(ctx context.Context, name, subnet string) (*service, error) {
	_, err := h.SetupServiceOverlay(ctx, wire.SetupServiceOverlay{Service: name, Mode: wire.ModeShared, Subnet: subnet})
	return &service{h.Client, name}, err
}

func (s *service) add(ctx context.Context, c *container) error {
	_, err := s.AttachContainer(ctx, wire.AttachContainer{Handle: wire.LinuxPID{PID: c.pid()}, Service: s.name})
	return err
}

func (s *service) del(ctx context.Context, c *container) error {
	return s.DetachContainer(ctx, wire.LinuxPID{PID: c.pid()})
}
