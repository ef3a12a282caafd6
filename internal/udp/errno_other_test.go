//go:build !windows

package udp

import (
	"errors"
	"syscall"
)

const errFamilyMissing = syscall.EAFNOSUPPORT

func isTooLong(err error) bool { return errors.Is(err, syscall.EMSGSIZE) }
