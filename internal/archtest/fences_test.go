package archtest

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A fence keeps an import to a few places.
type fence struct {
	what    string   // an import path, and all below it
	only    []string // patterns of folders or of files, in the form of matches
	tests   bool     // whether tests anywhere may
	because string
}

var fences = []fence{
	{"gvisor.dev/gvisor", []string{"netstack", "bench/..."}, true,
		"what is above packet.Device is one way to end packets, and can be left out"},
	{"golang.zx2c4.com/wireguard/device", []string{"overlay/engine_wireguardgo*.go", "bench/..."}, true,
		"wireguard-go is the second engine, behind one adapter"},
	{"golang.zx2c4.com/wireguard/tun/netstack", []string{"bench/..."}, true,
		"it is a peer to be measured against, not a part"},
	{"github.com/vishvananda/netlink", []string{"internal/hostnet", "internal/testnet"}, false,
		"only hostnet touches the host"},
	{"github.com/vishvananda/netns", []string{"internal/hostnet", "internal/testnet"}, false,
		"only hostnet touches the host"},
	{"github.com/google/nftables", []string{"internal/hostnet", "internal/testnet"}, false,
		"only hostnet touches the host"},
	{"github.com/flynn/noise", []string{"internal/wireguard", "bench/..."}, true,
		"handshakes are the protocol's"},
	{"github.com/miekg/dns", []string{"dnsd", "bench/..."}, true,
		"one package speaks DNS"},
	{"go.etcd.io/bbolt", []string{"internal/boltfile"}, true,
		"one package writes files that outlive the process"},
	{"github.com/pion", []string{"nat/traversal", "bench/..."}, true,
		"one package speaks STUN and TURN"},
	{"github.com/spf13/cobra", []string{"cmd/*"}, false,
		"a library has no command line"},
	{"github.com/coreos/go-systemd", []string{"cmd/*"}, false,
		"who starts a program is the program's affair"},
	{"github.com/rogpeppe/go-internal", nil, true,
		"scripts are for tests"},
	{"github.com/VictoriaMetrics/metrics", []string{"daemon"}, false,
		"the library has counters and a snapshot; how they are published is the program's"},
	{"github.com/stretchr/testify", []string{"internal/testnet", "internal/testchild"}, true,
		"assertions are for tests"},
	{"go.uber.org/goleak", []string{"internal/testnet"}, true,
		"leaks are looked for in tests"},
	{"testing", []string{"internal/testnet", "internal/testchild"}, true,
		"a program does not link its tests"},
}

func TestHeavyImportsStayBehindTheirFences(t *testing.T) {
	for _, f := range files(t) {
		for _, imported := range f.imports {
			for _, fence := range fences {
				if within(imported, fence.what) && !(f.test && fence.tests) && !inside(f, fence.only) {
					t.Errorf("%s imports %s, which is only for %s: %s", f.path, imported, strings.Join(fence.only, ", "), fence.because)
				}
			}
		}
	}
}

// inside reports whether a file, or its folder, matches one of the patterns.
func inside(f file, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, f.path) || matches(p, f.dir()) })
}

// osFile is the form of the name of a file that is for some systems only.
var osFile = regexp.MustCompile(`_(linux|windows|darwin|unix|other|amd64|arm64)(_test)?\.go$`)

func TestOnlyFilesNamedAfterASystemKnowIt(t *testing.T) {
	for _, f := range files(t) {
		if osFile.MatchString(f.path) {
			continue
		}
		for _, imported := range f.imports {
			if within(imported, "golang.org/x/sys") {
				t.Errorf("%s imports %s: move what needs it to x_linux.go, x_windows.go, x_darwin.go and x_other.go, with equal signatures", f.path, imported)
			}
		}
		for _, group := range f.syntax.Comments {
			for _, c := range group.List {
				if strings.HasPrefix(c.Text, "//go:build") && c.Pos() < f.syntax.Package {
					t.Errorf("%s has a build constraint, but its name does not tell for which system: name it x_linux.go, x_windows.go, x_darwin.go, x_unix.go or x_other.go", f.at(c))
				}
			}
		}
	}
}
