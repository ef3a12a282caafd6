package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ReadSysctl returns the value of a parameter of the kernel, "net.ipv4.ip_forward",
// of the calling thread's namespace. A dot that is part of a link's name is written
// as a slash, as sysctl(8) has it: "net.ipv6.conf.eth0/100.accept_ra". The error is
// fs.ErrNotExist for one that this kernel does not have.
func ReadSysctl(name string) (string, error) {
	path, err := sysctlPath(name)
	if err != nil {
		return "", err
	}
	value, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return strings.TrimSpace(string(value)), nil
}

// WriteSysctl sets a parameter of the kernel. Names are as in ReadSysctl.
func WriteSysctl(name, value string) error {
	path, err := sysctlPath(name)
	if err != nil {
		return err
	}
	if err := writeParameter(path, value); err != nil {
		return fmt.Errorf("set sysctl %s to %q: %w", name, value, err)
	}
	return nil
}

// writeParameter writes a file of /proc, and never makes one.
func writeParameter(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func sysctlPath(name string) (string, error) {
	swapped := strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
	if !filepath.IsLocal(swapped) || filepath.Clean(swapped) != swapped || swapped == "." {
		return "", fmt.Errorf("sysctl %q: not a name: %w", name, fs.ErrInvalid)
	}
	return "/proc/sys/" + swapped, nil
}

// ForwardingSysctls returns what is to be written, in this order, for the host to
// forward packets of both families, each with the value it is to have, and without what
// has it already. Who writes it may read the values before and write them back later,
// in the opposite order.
//
// A host that forwards IPv6 takes router advertisements no more, and forgets what
// routes it has from them, its default route among them, except on links where
// accept_ra is 2 (ip-sysctl in the kernel's documentation). So those where it is 1 come
// first. Links that are made later are as net.ipv6.conf.default says, which is left
// alone: containers are not to be asked for a way to the world.
func ForwardingSysctls() ([]Sysctl, error) {
	var all []Sysctl
	links, err := os.ReadDir("/proc/sys/net/ipv6/conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
		return nil, fmt.Errorf("list links' sysctls: %w", err)
	}
	for _, link := range links {
		conf := "net.ipv6.conf." + strings.ReplaceAll(link.Name(), ".", "/") + "."
		accept, _ := ReadSysctl(conf + "accept_ra") // it may be gone meanwhile
		forwarding, _ := ReadSysctl(conf + "forwarding")
		switch link.Name() {
		case "all", "default", "lo":
		default:
			if accept == "1" && forwarding == "0" {
				all = append(all, Sysctl{conf + "accept_ra", "2"})
			}
		}
	}
	forwards := []Sysctl{{"net.ipv4.ip_forward", "1"}}
	if len(links) > 0 {
		forwards = append(forwards, Sysctl{"net.ipv6.conf.all.forwarding", "1"})
	}
	for _, s := range forwards {
		is, err := ReadSysctl(s.Name)
		if err != nil {
			return nil, err
		}
		if is != s.Value {
			all = append(all, s)
		}
	}
	return all, nil
}
