package udp

import (
	"errors"

	"golang.org/x/sys/windows"
)

const errFamilyMissing = windows.WSAEAFNOSUPPORT

func isTooLong(err error) bool { return errors.Is(err, windows.WSAEMSGSIZE) }
