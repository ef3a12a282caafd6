//go:build !linux

package overlay

import (
	"errors"
	"fmt"

	"github.com/overlayd/overlayd/packet"
)

// A tunDevice does not exist on this system.
type tunDevice struct {
	packet.Device
}

// TakesUDPSegments reports whether superpackets of UDP may be written.
func (*tunDevice) TakesUDPSegments() bool { return false }

func openTUN(config TUNConfig) (*TUN, error) {
	err := fmt.Errorf("%w: %w", ErrTUNUnavailable, errors.ErrUnsupported)
	return nil, &TUNError{Name: config.Name, Op: "create", Err: err}
}
