package testnet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
)

// A Namespace is a network namespace of its own. It begins with a loopback
// interface, which is up, and nothing else.
//
// It has no name below /run/netns: it lives as long as the Namespace is open, or
// a process runs in it, so that not even a killed test leaves one behind. Its
// Path carries the process id instead.
//
// The methods are safe for use by several goroutines.
type Namespace struct {
	namespace
}

// OpenNamespace makes a namespace, which wants CAP_SYS_ADMIN and CAP_NET_ADMIN:
// without them the error is fs.ErrPermission, and on systems other than Linux it
// is errors.ErrUnsupported.
func OpenNamespace() (*Namespace, error) {
	ns := new(Namespace)
	if err := ns.open(); err != nil {
		return nil, fmt.Errorf("testnet: new network namespace: %w", err)
	}
	return ns, nil
}

// NewNamespace is OpenNamespace for a test, which it skips where a namespace
// cannot be had. The namespace is closed with the test.
func NewNamespace(t testing.TB) *Namespace {
	t.Helper()
	ns, err := OpenNamespace()
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, errors.ErrUnsupported):
		t.Skipf("needs root on Linux: %v", err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// Do runs f in the namespace, on the calling goroutine, so that f may end the
// test: sockets, devices and processes that f makes belong to the namespace for
// good. A goroutine that f starts does not run in it. Calls may be nested, for
// one namespace or several.
//
// Do panics when the namespace is closed or the system refuses the switch,
// because to go on would mean to go on in the wrong namespace. When the way back
// is refused, the goroutine also stays bound to its thread, which the Go runtime
// then ends with it instead of lending it to another goroutine.
func (ns *Namespace) Do(f func()) { ns.do(f) }

// Command is exec.Command for a program that runs in the namespace, by
// nsenter(1). Its process is killed when the test's own dies.
func (ns *Namespace) Command(name string, args ...string) *exec.Cmd {
	return ns.command(name, args...)
}

// Output is what a program prints that runs in the namespace. A test whose program
// fails ends. A list for which ip(8) says that something came or went meanwhile is
// asked for again.
func (ns *Namespace) Output(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	for {
		cmd := ns.Command(name, args...)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %s: %v: %s%s", name, strings.Join(args, " "), err, out, said.Bytes())
		}
		if !bytes.Contains(said.Bytes(), []byte("Dump was interrupted")) {
			return out
		}
	}
}

// Path names the namespace to other programs while it is open:
// /proc/<process id>/fd/<number>.
func (ns *Namespace) Path() string { return ns.path() }

// Close kills every process that runs in the namespace, whoever started it, and
// gives the namespace up. It is idempotent.
func (ns *Namespace) Close() error { return ns.close() }

// A Port is one end of a virtual Ethernet cable.
type Port struct {
	Namespace *Namespace
	Name      string         // of the interface, at most 15 bytes
	Addrs     []netip.Prefix // each with the length of its network
}

// Veth joins two namespaces by a cable (veth(4)). Both ends have their addresses
// and are up when it returns, and IPv6 addresses are ready for use. On error
// there is no cable.
func Veth(a, b Port) error {
	if err := veth(a, b); err != nil {
		return fmt.Errorf("testnet: veth %s to %s: %w", a.Name, b.Name, err)
	}
	return nil
}
