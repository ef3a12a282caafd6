package udp

import (
	"errors"

	"golang.org/x/sys/windows"
)

const errPortInUse = windows.WSAEADDRINUSE

// isFamilyMissing reports whether the host lacks the address family.
func isFamilyMissing(err error) bool {
	return errors.Is(err, windows.WSAEAFNOSUPPORT) || errors.Is(err, windows.WSAEADDRNOTAVAIL)
}
