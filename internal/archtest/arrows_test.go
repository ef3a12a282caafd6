package archtest

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// An arrow is what a package may import of ours.
type arrow struct {
	from    string // a pattern of folders, in the form of matches
	to      []string
	because string
}

// arrows say how data may flow: leaves know bytes, the middle knows WireGuard, the
// top knows the host's plans, and the operating system is at the rim.
var arrows = []arrow{
	{"packet", nil, "it is the vocabulary of all others, and knows nothing but bytes"},
	{"ipam", []string{"internal/boltfile"}, "addresses and owners need no network; the leaf it has keeps them on the disk"},
	{"internal/boltfile", nil, "a file knows nothing of what is in it"},
	{"internal/hostnet", nil, "it is the only one that touches the host, and knows nothing of overlays"},
	{"internal/udp", nil, "a socket knows nothing of what goes through it"},
	{"internal/aead", nil, "a cipher knows bytes and keys"},
	{"internal/wireguard", []string{"packet", "internal/udp", "internal/aead"}, "the protocol stands between packets and datagrams, and knows no device by name"},
	{"overlay", []string{"packet", "internal/wireguard", "internal/hostnet"}, "a node is packets, an engine and, for a TUN device, the host; gVisor and it meet in packet.Device"},
	{"netstack", []string{"packet"}, "a TCP/IP stack knows nothing of WireGuard; they meet in packet.Device"},
	{"dnsd", []string{"packet"}, "a DNS server serves any socket, and answers in the packet path as a stage"},
	{"nat", []string{"packet"}, "translation is a stage over packets"},
	{"nat/traversal", []string{"overlay", "packet"}, "it finds endpoints for a node, which knows nothing of how they are found"},
	{"daemon/wire", nil, "it is the contract with other programs, and drags nothing into them"},
	{"daemon/client", []string{"daemon/wire"}, "a program that calls the daemon links neither its stack nor its host code"},
	{"daemon", []string{"overlay", "nat", "nat/traversal", "netstack", "dnsd", "ipam", "packet", "daemon/wire", "daemon/client", "daemon/internal/server", "daemon/internal/state", "internal/hostnet"}, "it is where everything is put together"},
	{"daemon/internal/server", []string{"daemon/wire"}, "a socket's server knows frames, and not what they ask for"},
	{"daemon/internal/state", []string{"daemon/wire", "overlay", "internal/boltfile"}, "what survives is written in the contract's terms and keys"},
	{"cmd/overlayd", []string{"daemon", "daemon/client", "daemon/wire"}, "a command is flags and subcommands only"},
	{"examples/*", []string{"overlay", "netstack", "nat", "nat/traversal", "dnsd", "ipam", "packet", "daemon", "daemon/client", "daemon/wire"}, "an example uses what its reader can use, so nothing internal"},
	{"bench/...", []string{"*"}, "it measures anything"},
	{"internal/testnet", []string{"packet", "internal/hostnet"}, "fakes serve the tests of all others, so may import only leaves"},
	{"internal/testchild", nil, "it starts a test again, whatever that tests"},
	{"internal/archtest", nil, "it reads the others"},
}

func TestPackagesImportOnlyWhatTheirArrowsAllow(t *testing.T) {
	for _, p := range packages(t) {
		from, _ := ours(p.ImportPath)
		i := slices.IndexFunc(arrows, func(a arrow) bool { return matches(a.from, from) })
		if i < 0 {
			t.Errorf("package %s has no arrow: add to arrows what it may import, and why", from)
			continue
		}
		for _, imported := range p.Imports {
			to, ok := ours(imported)
			if ok && !slices.Contains(arrows[i].to, to) && !slices.Contains(arrows[i].to, "*") {
				t.Errorf("on %s, package %s imports %s, but may import only [%s]: %s",
					p.system, from, to, strings.Join(arrows[i].to, " "), arrows[i].because)
			}
		}
	}
}

// The fakes are for tests, so nothing that runs may link them.
func TestOnlyTestsImportTheFakes(t *testing.T) {
	for _, p := range packages(t) {
		from, _ := ours(p.ImportPath)
		for _, fake := range []string{"internal/testnet", "internal/testchild"} {
			if slices.Contains(p.Imports, module+"/"+fake) && !within(from, "bench") {
				t.Errorf("on %s, package %s imports %s outside its tests", p.system, from, fake)
			}
		}
	}
}

// A lean package is one whose importers must not pay for what others need.
var lean = []struct{ pkg, without, because string }{
	{"daemon/client", "gvisor.dev/gvisor", "a program that only calls the daemon has no use for a TCP/IP stack"},
	{"daemon/client", "github.com/vishvananda/netlink", "nor for the host's links"},
	{"daemon/client", "golang.zx2c4.com/wireguard", "nor for WireGuard"},
	{"daemon/wire", "gvisor.dev/gvisor", "the contract is types and frames"},
	{"overlay", "gvisor.dev/gvisor", "a node on a TUN device has no use for a TCP/IP stack"},
	{"netstack", "golang.zx2c4.com/wireguard", "a stack has no use for WireGuard"},
	{"netstack", "github.com/vishvananda/netlink", "a stack touches no host"},
	{"ipam", "github.com/vishvananda/netlink", "addresses are numbers"},
}

func TestLeanPackagesLinkNothingHeavy(t *testing.T) {
	for _, p := range packages(t) {
		for _, l := range lean {
			heavy := func(dep string) bool { return within(dep, l.without) }
			if i := slices.IndexFunc(p.Deps, heavy); i >= 0 && p.ImportPath == module+"/"+l.pkg {
				t.Errorf("on %s, package %s links %s, by whatever way: %s", p.system, l.pkg, p.Deps[i], l.because)
			}
		}
	}
}

// matches reports whether a path of the module is one that a pattern means:
// path.Match's, or "x/..." for x and all below it.
func matches(pattern, name string) bool {
	if top, ok := strings.CutSuffix(pattern, "/..."); ok {
		return within(name, top)
	}
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// within reports whether a path is another, or below it.
func within(name, top string) bool {
	return name == top || strings.HasPrefix(name, top+"/")
}
