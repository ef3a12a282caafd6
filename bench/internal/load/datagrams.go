package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// Received is how many datagrams arrived after those first read, and within
// which time.
type Received struct {
	Datagrams int64
	Time      time.Duration
}

// PerSecond is their rate.
func (r Received) PerSecond() float64 {
	if r.Datagrams <= 0 {
		return 0
	}
	return float64(r.Datagrams) / r.Time.Seconds()
}

// Datagrams sends datagrams with so many bytes of payload as fast as the near
// host takes them, and returns what the Server received of them in a time d.
func Datagrams(ctx context.Context, dial Dial, size int, d time.Duration) (Received, error) {
	c, err := begin(ctx, dial, d, append([]byte{cmdCount}, bigEndian(int64(d), int64(size))...)...)
	if err != nil {
		return Received{}, err
	}
	defer c.Close()
	var b [16]byte
	if _, err := io.ReadFull(c, b[:1]); err != nil { // from here on it counts
		return Received{}, fmt.Errorf("the other end's count: %w", err)
	}
	// The first may need a while to get through.
	if err := flood(ctx, dial, size, d+d/8); err != nil {
		return Received{}, err
	}
	if err := c.closeWrite(); err != nil {
		return Received{}, err
	}
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return Received{}, fmt.Errorf("the other end's count: %w", err)
	}
	return Received{Datagrams: number(b[:]), Time: time.Duration(number(b[8:]))}, nil
}

func flood(ctx context.Context, dial Dial, size int, d time.Duration) error {
	c, err := dial(ctx, "udp")
	if err != nil {
		return err
	}
	defer c.Close()
	datagram := make([]byte, size)
	if u, ok := c.(*net.UDPConn); ok {
		return floodSocket(ctx, u, datagram, d)
	}
	return floodConn(ctx, c, datagram, d)
}

func floodConn(ctx context.Context, c net.Conn, datagram []byte, d time.Duration) error {
	for start := time.Now(); time.Since(start) < d && ctx.Err() == nil; {
		if _, err := c.Write(datagram); err != nil && !full(err) {
			return err
		}
	}
	return ctx.Err()
}

// full reports whether a datagram was refused because of those before it.
func full(err error) bool {
	return errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.EAGAIN)
}
