// Package load makes the traffic that is measured: a Server on one host and the
// functions that call it from another. The hosts may be two TCP/IP stacks in one
// process, or two network namespaces with a process each; the load is the same.
package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
)

// Dial connects to the Server, by "tcp" or "udp".
type Dial func(ctx context.Context, network string) (net.Conn, error)

// Moved is how much arrived, and how long that took.
type Moved struct {
	Bytes int64
	Time  time.Duration
}

// Gbits is the rate in Gbit/s.
func (m Moved) Gbits() float64 { return float64(m.Bytes) * 8 / 1e9 / m.Time.Seconds() }

// And is m and n one after the other.
func (m Moved) And(n Moved) Moved { return Moved{m.Bytes + n.Bytes, m.Time + n.Time} }

// The commands that begin a TCP connection to the Server, one byte each.
const (
	cmdUpload   = 'u' // counts what comes up to the end, and answers with the count
	cmdDownload = 'd' // sends for as long as it is taken
	cmdEcho     = 'e' // sends back what comes
	cmdRequest  = 'r' // answers with one byte and closes
	cmdCount    = 'c' // counts datagrams for the time, of the size that follow, eight bytes each
)

const (
	// chunk is what one call writes or reads: iperf3's default.
	chunk = 128 << 10

	// patience is how long a call may take beyond the time it is given.
	patience = 20 * time.Second
)

// A call is a connection to the Server that has sent its command. Its context
// closes it.
type call struct {
	net.Conn
	stop func() bool
}

func begin(ctx context.Context, dial Dial, d time.Duration, cmd ...byte) (*call, error) {
	ctx, cancel := context.WithTimeout(ctx, d+patience)
	conn, err := dial(ctx, "tcp")
	if err != nil {
		cancel()
		return nil, err
	}
	c := &call{Conn: conn}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c.stop = func() bool {
		defer cancel()
		return stop()
	}
	if _, err := c.Write(cmd); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Echo connects to the Server, which sends back what comes.
func Echo(ctx context.Context, dial Dial) (net.Conn, error) {
	return open(ctx, dial, cmdEcho)
}

// Source connects to the Server, which sends as fast as it can.
func Source(ctx context.Context, dial Dial) (net.Conn, error) {
	return open(ctx, dial, cmdDownload)
}

// open is begin without an end.
func open(ctx context.Context, dial Dial, cmd byte) (net.Conn, error) {
	c, err := dial(ctx, "tcp")
	if err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte{cmd}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close ends the call.
func (c *call) Close() error {
	c.stop()
	return c.Conn.Close()
}

func (c *call) closeWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("%T cannot be closed for writing alone", c.Conn)
	}
	return half.CloseWrite()
}

func bigEndian(numbers ...int64) []byte {
	var b []byte
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return b
}

func number(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }

// Latencies are how long each of many things took.
type Latencies []time.Duration

// Quantile is the one below which the given share of all lies, from 0 to 1; 0
// when there are none. It sorts l.
func (l Latencies) Quantile(share float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	slices.Sort(l)
	return l[min(int(share*float64(len(l))), len(l)-1)]
}
