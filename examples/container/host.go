package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/overlayd/overlayd/daemon"
	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
)

const (
	cluster = "10.200.0.0/16"
	port    = 51420
	service = "web"
)

// A host is one of the two.
type host struct {
	id        uint64
	name      string
	addr      string // on the cable
	slice     string // of the overlay
	process   int
	daemon    *client.Client
	container int // its process
	at        wire.Attached
}

// beHost is an overlayd, in a namespace of its own.
func beHost(ctx context.Context, dir string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	d, err := daemon.New(daemon.Config{DataDir: dir, Mode: daemon.ModeTUN, Logger: log})
	if err != nil {
		return err
	}
	return d.Serve(ctx)
}

// beContainer is a web server, in a namespace of its own.
func beContainer(ctx context.Context, host string) error {
	l, err := net.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:errcheck // the end of l is the end of ctx
		fmt.Fprintf(w, "hello %s, this is the container on host %s", r.RemoteAddr, host)
	}))
	return nil
}

// spawn starts this program as something else, in a network namespace of its own,
// until end is called, ctx is done, or this program dies.
func spawn(ctx context.Context, role, arg string) (process int, end func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, self, role, arg)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	isolate(cmd)
	if err := cmd.Start(); err != nil {
		cancel()
		return 0, nil, err
	}
	return cmd.Process.Pid, func() { cancel(); cmd.Wait() }, nil //nolint:errcheck // it was killed
}

// cable joins two hosts, as a switch between them would.
func cable(ctx context.Context, a, b *host) error {
	err := command(ctx, "ip", "link", "add", "cable", "netns", fmt.Sprint(a.process),
		"type", "veth", "peer", "name", "cable", "netns", fmt.Sprint(b.process))
	for _, h := range []*host{a, b} {
		for _, args := range []string{"link set lo up", "addr add " + h.addr + "/24 dev cable", "link set cable up"} {
			if err == nil {
				err = command(ctx, "nsenter", append([]string{"--net", "--target", fmt.Sprint(h.process), "ip"}, strings.Fields(args)...)...)
			}
		}
	}
	return err
}

// setUp makes a host's part of the overlay.
func (h *host) setUp(ctx context.Context) error {
	if err := h.daemon.SetLocalNodeID(ctx, h.id); err != nil {
		return err
	}
	if _, err := h.daemon.SetupGlobalOverlay(ctx, wire.SetupGlobalOverlay{
		Deployment: "example", InstanceID: h.name, ClusterCIDR: cluster, SliceCIDR: h.slice, WGPort: port,
	}); err != nil {
		return err
	}
	_, err := h.daemon.SetupServiceOverlay(ctx, wire.SetupServiceOverlay{Service: service, Mode: wire.ModeShared})
	return err
}

// meet makes another host a peer: what it has of the overlay lies behind it.
func (h *host) meet(ctx context.Context, other *host) error {
	status, err := other.daemon.Status(ctx)
	if err != nil {
		return err
	}
	services, err := other.daemon.ListServices(ctx)
	if err != nil {
		return err
	}
	behind := []string{other.slice}
	for _, s := range services {
		for _, subnet := range s.Subnets {
			behind = append(behind, subnet.String())
		}
	}
	fmt.Printf("   host %s: peer %s has %s\n", h.name, status.PublicKey, strings.Join(behind, ", "))
	return h.daemon.AddPeer(ctx, wire.PeerSpec{
		PublicKey: status.PublicKey, Endpoint: fmt.Sprintf("%s:%d", other.addr, port), AllowedIPs: strings.Join(behind, ","),
	}, nil)
}

// attach puts the host's container on the overlay, under a name that these hosts
// know.
func (h *host) attach(ctx context.Context, known ...*host) error {
	at, err := h.daemon.AttachContainer(ctx, wire.AttachContainer{
		Handle: wire.LinuxPID{PID: uint32(h.container)}, Service: service,
	})
	if err != nil {
		return err
	}
	h.at = at
	fmt.Printf("   web-%s.overlay.internal is %s, on host %[1]s\n", h.name, at.IP)
	for _, k := range known {
		if err := k.daemon.RegisterDNS(ctx, wire.RegisterDNS{Name: "web-" + h.name, IP: at.IP}); err != nil {
			return err
		}
	}
	return nil
}

// url is what the host's container serves.
func (h *host) url() string { return "http://web-" + h.name + ".overlay.internal/" }

// curl asks for a page from inside the container, again if the other container does
// not listen yet. What an image would have in its /etc is laid over this system's,
// for curl alone to see.
func (h *host) curl(ctx context.Context, dir, url string) error {
	etc := map[string]string{
		"resolv.conf":   fmt.Sprintf("nameserver %s\n", h.at.Gateway),
		"nsswitch.conf": "hosts: files dns\n",
	}
	script := ""
	for name, content := range etc {
		file := filepath.Join(dir, h.name+"."+name)
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return err
		}
		script += fmt.Sprintf("[ ! -e /etc/%s ] || mount --bind %s /etc/%[1]s && ", name, file)
	}
	fmt.Printf("   container on host %s: curl %s\n   ", h.name, url)
	defer fmt.Println()
	return command(ctx, "nsenter", "--net", "--target", fmt.Sprint(h.container),
		"unshare", "--mount", "sh", "-c", script+"exec curl --silent --show-error --fail --max-time 10 --retry 20 --retry-delay 1 --retry-connrefused "+url)
}

// command runs a command of the system.
func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}

// step says what comes next.
func step(format string, args ...any) { fmt.Printf("-- "+format+"\n", args...) }
