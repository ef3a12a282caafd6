package client

import (
	"context"
	"net"

	"github.com/Microsoft/go-winio"
)

func defaultEndpoint() (string, error) { return pipePrefix + "overlayd", nil }

// dialPipe waits while all the pipe's instances are busy, until ctx is done. The
// server may learn who calls, but not act in the caller's name.
func dialPipe(ctx context.Context, name string) (net.Conn, error) {
	return winio.DialPipeContext(ctx, name)
}
