//go:build !linux && !darwin && !windows

package client

import (
	"context"
	"errors"
	"fmt"
	"net"
)

func defaultEndpoint() (string, error) {
	return "", fmt.Errorf("overlayd: there is no default for the socket: give its path: %w", errors.ErrUnsupported)
}

func dialPipe(_ context.Context, name string) (net.Conn, error) {
	return nil, fmt.Errorf("named pipe %s: %w", name, errors.ErrUnsupported)
}
