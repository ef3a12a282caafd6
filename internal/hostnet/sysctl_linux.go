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
