//go:build !linux && !darwin && !windows

package server

import (
	"errors"
	"net"
)

// credentials are not to be had, so nobody may connect.
func credentials(net.Conn) (peer, error) { return peer{}, errors.ErrUnsupported }
