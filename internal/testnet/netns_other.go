//go:build !linux

package testnet

import (
	"errors"
	"os/exec"
)

type namespace struct{}

func (*namespace) open() error { return errors.ErrUnsupported }

func (*namespace) do(func()) { panic("testnet: Do: there are no network namespaces on this system") }

func (*namespace) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Err = errors.ErrUnsupported
	return cmd
}

func (*namespace) path() string { return "" }

func (*namespace) close() error { return nil }

func veth(Port, Port) error { return errors.ErrUnsupported }
