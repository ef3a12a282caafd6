//go:build !linux

package overlay

import (
	"errors"

	"github.com/overlayd/overlayd/packet"
)

// A tunDevice does not exist on this system.
type tunDevice struct {
	packet.Device
}

// TakesUDPSegments reports whether superpackets of UDP may be written.
func (*tunDevice) TakesUDPSegments() bool { return false }

func openTUN(config TUNConfig) (*TUN, error) {
	return nil, &TUNError{Name: config.Name, Op: "create", Err: errors.ErrUnsupported}
}
