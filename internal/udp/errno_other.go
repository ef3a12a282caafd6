//go:build !windows

package udp

import (
	"errors"
	"syscall"
)

const errPortInUse = syscall.EADDRINUSE

// isFamilyMissing reports whether the host lacks the address family.
func isFamilyMissing(err error) bool {
	return errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)
}
