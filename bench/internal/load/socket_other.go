//go:build !linux

package load

import (
	"context"
	"net"
	"time"
)

func floodSocket(ctx context.Context, u *net.UDPConn, datagram []byte, d time.Duration) error {
	return floodConn(ctx, u, datagram, d)
}

func receiveSocket(u *net.UDPConn, got func(bytes int)) { receiveConn(u, got) }
