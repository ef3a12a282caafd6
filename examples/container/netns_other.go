//go:build !linux

package main

import (
	"errors"
	"os/exec"
)

// isolate fails the command: other systems have no network namespaces.
func isolate(cmd *exec.Cmd) { cmd.Err = errors.ErrUnsupported }
