package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/overlayd/overlayd/bench/internal/load"
)

// A serveJob is a load's server on sockets of the system. It writes one line when
// it listens, and runs until its standard input ends.
type serveJob struct {
	Addr string
}

func (j *serveJob) do(ctx context.Context, stdout io.Writer) error {
	l, err := net.Listen("tcp", j.Addr)
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", j.Addr)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	s := load.Serve(l, packets)
	if _, err := fmt.Fprintln(stdout, "listening"); err != nil {
		return errors.Join(err, s.Close())
	}
	<-ctx.Done()
	return s.Close()
}

// A trafficJob is traffic from sockets of the system; it yields a trafficResult.
type trafficJob struct {
	Name string // of traffics
	To   string
	Time time.Duration
}

type trafficResult struct {
	Values []float64
	Bytes  int64
}

func (j *trafficJob) do(ctx context.Context) (r trafficResult, err error) {
	t := traffics[j.Name]
	if t == nil {
		return r, fmt.Errorf("there is no traffic %q", j.Name)
	}
	dial := func(ctx context.Context, network string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, j.To)
	}
	r.Values, r.Bytes, err = t(ctx, dial, j.Time)
	return r, err
}
