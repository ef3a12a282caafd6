package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const origin = "bench.internal."

// writeFiles writes the zone in the forms the servers read, and the queries: one
// in ten asks for a name that is not there.
func writeFiles(dir string, names int) error {
	var zone, hosts, unbound, queries bytes.Buffer
	fmt.Fprintf(&zone, "$ORIGIN %s\n$TTL 30\n@ IN SOA ns hostmaster 1 1200 180 1209600 5\n@ IN NS ns\nns IN A 10.0.0.53\n", origin)
	for i := range names {
		name, addr := fmt.Sprintf("host-%d.%s", i, origin), netip.AddrFrom4([4]byte{10, byte(1 + i>>16), byte(i >> 8), byte(i)})
		fmt.Fprintf(&zone, "host-%d IN A %s\n", i, addr)
		fmt.Fprintf(&hosts, "%s %s\n", addr, strings.TrimSuffix(name, "."))
		fmt.Fprintf(&unbound, "local-data: \"%s 30 IN A %s\"\n", name, addr)
	}
	for i := range names {
		name := fmt.Sprintf("host-%d", i*7919%names)
		if i%10 == 9 {
			name = fmt.Sprintf("none-%d", i)
		}
		fmt.Fprintf(&queries, "%s.%s A\n", name, strings.TrimSuffix(origin, "."))
	}
	for name, b := range map[string]*bytes.Buffer{"zone": &zone, "hosts": &hosts, "unbound.zone": &unbound, "queries": &queries} {
		if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// A server is a kind of server.
type server struct {
	name    string
	program string // "": this one
	// command writes configuration into the folder dir, if need be, and returns the
	// arguments. With an upstream it forwards and caches; else it has the zone.
	command func(dir string, addr netip.AddrPort, upstream string) ([]string, error)
}

var ours = server{"dnsd", "", func(dir string, addr netip.AddrPort, upstream string) ([]string, error) {
	return []string{"-serve", "ours", dir}, writeChild(dir, addr, upstream)
}}

// servers are all there are; the first is ours.
var servers = []server{
	ours,
	{"CoreDNS", "", func(dir string, addr netip.AddrPort, upstream string) ([]string, error) {
		return []string{"-serve", "coredns", dir}, writeChild(dir, addr, upstream)
	}},
	{"dnsmasq", "dnsmasq", func(dir string, addr netip.AddrPort, upstream string) ([]string, error) {
		args := []string{
			"--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--user=", "--pid-file=",
			"--listen-address=" + addr.Addr().String(), "--bind-interfaces", "--port=" + strconv.Itoa(int(addr.Port())),
			"--dns-forward-max=10000",
		}
		if upstream != "" {
			return append(args, "--cache-size=20000", "--server="+strings.ReplaceAll(upstream, ":", "#")), nil
		}
		return append(args, "--addn-hosts="+filepath.Join(dir, "hosts"), "--local=/"+strings.TrimSuffix(origin, ".")+"/", "--local-ttl=30"), nil
	}},
	{"unbound", "unbound", func(dir string, addr netip.AddrPort, upstream string) ([]string, error) {
		zone := fmt.Sprintf("local-zone: %q static\nlocal-data: \"%s 30 IN SOA ns.%s hostmaster.%s 1 1200 180 1209600 5\"\ninclude: %q\n",
			origin, origin, origin, origin, filepath.Join(dir, "unbound.zone"))
		if upstream != "" {
			zone = fmt.Sprintf("do-not-query-localhost: no\nlocal-zone: internal. nodefault\nforward-zone:\nname: \".\"\nforward-addr: %s\n",
				strings.ReplaceAll(upstream, ":", "@"))
		}
		text := fmt.Sprintf("server:\ndo-daemonize: no\nuse-syslog: no\nverbosity: 0\nchroot: \"\"\nusername: \"\"\npidfile: \"\"\n"+
			"directory: %q\ninterface: %s@%d\naccess-control: 127.0.0.0/8 allow\nnum-threads: 2\nso-reuseport: yes\n"+
			"incoming-num-tcp: 100\nmodule-config: \"iterator\"\n%sremote-control:\ncontrol-enable: no\n",
			dir, addr.Addr(), addr.Port(), zone)
		if i := strings.Index(text, "forward-zone:"); i >= 0 { // a clause of its own
			end := strings.Index(text, "remote-control:")
			text = text[:i] + text[end:] + text[i:end]
		}
		path := filepath.Join(dir, "unbound.conf")
		return []string{"-d", "-c", path}, os.WriteFile(path, []byte(text), 0o644)
	}},
	{"knot", "knotd", func(dir string, addr netip.AddrPort, upstream string) ([]string, error) {
		if upstream != "" {
			return nil, fmt.Errorf("%w: it does not forward and cache", errMissing)
		}
		text := fmt.Sprintf("server:\n  rundir: %q\n  listen: %s@%d\n  udp-workers: 2\n  tcp-workers: 2\n"+
			"log:\n  - target: stderr\n    any: error\ndatabase:\n  storage: %q\n"+
			"zone:\n  - domain: %s\n    file: %q\n    zonefile-sync: -1\n    journal-content: none\n",
			dir, addr.Addr(), addr.Port(), dir, origin, filepath.Join(dir, "zone"))
		path := filepath.Join(dir, "knot.conf")
		return []string{"-c", path}, os.WriteFile(path, []byte(text), 0o644)
	}},
}

var errMissing = errors.New("not measured")

// A process is a server that runs.
type process struct {
	addr netip.AddrPort
	stop func() (cpu time.Duration) // that it used
}

// start runs a server and returns when it answers.
func start(ctx context.Context, kind server, dir, upstream string) (*process, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	own, err := os.MkdirTemp(dir, "server-")
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"zone", "hosts", "unbound.zone", "queries"} {
		if err := os.Link(filepath.Join(dir, name), filepath.Join(own, name)); err != nil {
			return nil, err
		}
	}
	args, err := kind.command(own, addr, upstream)
	if err != nil {
		return nil, err
	}
	program := kind.program
	if program == "" {
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	} else if program, err = exec.LookPath(program); err != nil {
		return nil, fmt.Errorf("%w: %s is not installed", errMissing, kind.program)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	p := &process{addr: addr, stop: sync.OnceValue(func() time.Duration {
		cmd.Process.Kill()
		<-ended
		return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	})}
	client := dns.Client{Timeout: 200 * time.Millisecond}
	for began := time.Now(); time.Since(began) < 20*time.Second; {
		select {
		case err := <-ended:
			return nil, fmt.Errorf("it ended: %v\n%s", err, said.Bytes())
		default:
		}
		m, _, err := client.Exchange(new(dns.Msg).SetQuestion("host-0."+origin, dns.TypeA), addr.String())
		if err == nil && len(m.Answer) == 1 {
			return p, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.stop()
	return nil, fmt.Errorf("it does not answer\n%s", said.Bytes())
}

// freeAddr is an address whose port is free for UDP and TCP.
func freeAddr() (netip.AddrPort, error) {
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return netip.AddrPort{}, err
		}
		addr := l.Addr().(*net.TCPAddr).AddrPort()
		c, err := net.ListenPacket("udp", addr.String())
		l.Close()
		if err == nil {
			c.Close()
			return addr, nil
		}
	}
	return netip.AddrPort{}, errors.New("no port is free for UDP and TCP")
}
