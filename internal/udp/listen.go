package udp

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// Listen opens the sockets of a port: both families, or the one the host has.
// When the port belongs to someone else the error is a *PortError. On any error
// nothing is left open.
func Listen(cfg Config) (*Conn, error) {
	return listen(cfg, systemOpener())
}

// A PortError says that the port asked for is taken. It is syscall.EADDRINUSE on
// every system.
type PortError struct {
	Port uint16
	Err  error // what the system said
}

func (e *PortError) Error() string {
	return fmt.Sprintf("udp: port %d is in use; choose another, or end the program that has it: %v", e.Port, e.Err)
}

// Unwrap returns what the system said.
func (e *PortError) Unwrap() error { return e.Err }

// Is reports whether target is syscall.EADDRINUSE, which Windows calls by another number.
func (e *PortError) Is(target error) bool { return target == syscall.EADDRINUSE }

// place is where a socket belongs.
type place struct {
	v6    bool
	port  uint16 // 0: any
	lane  int
	lanes int
}

func (p place) network() string {
	if p.v6 {
		return "udp6"
	}
	return "udp4"
}

// opener opens one socket. For a lane other than 0 it may say
// errors.ErrUnsupported where a port cannot be shared.
type opener func(place) (transport, error)

// freePortTries is how often Listen looks for a port free in both families.
const freePortTries = 100

func listen(cfg Config, open opener) (*Conn, error) {
	cfg.Lanes = max(cfg.Lanes, 1)
	for try := 1; ; try++ {
		c, err := listenOnce(cfg, open)
		if err == nil {
			return c, nil
		}
		switch inUse := errors.Is(err, errPortInUse); {
		case !inUse:
			return nil, fmt.Errorf("udp: listen on port %d: %w", cfg.Port, err)
		case cfg.Port != 0:
			return nil, &PortError{Port: cfg.Port, Err: err}
		case try == freePortTries:
			return nil, fmt.Errorf("udp: no port is free in both families in %d tries: %w", try, err)
		}
	}
}

func listenOnce(cfg Config, open opener) (_ *Conn, err error) {
	c := &Conn{
		port:   cfg.Port,
		lanes:  make([]lane, cfg.Lanes),
		hook:   cfg.Hook,
		closed: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	var missing error
	for _, v6 := range []bool{false, true} {
		err := c.openFamily(v6, open)
		if isFamilyMissing(err) {
			missing = err
		} else if err != nil {
			return nil, err
		}
	}
	if len(c.sockets) == 0 {
		return nil, missing
	}
	if cfg.FwMark != 0 {
		if err := c.setMark(cfg.FwMark); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// openFamily opens a family's socket in each lane. A family is missing only when
// its first socket cannot be had.
func (c *Conn) openFamily(v6 bool, open opener) error {
	for i := range c.lanes {
		t, err := open(place{v6: v6, port: c.port, lane: i, lanes: len(c.lanes)})
		switch {
		case err == nil:
			c.port = t.port()
			c.sockets = append(c.sockets, &Socket{conn: c, t: t, lane: i})
		case i > 0 && errors.Is(err, errors.ErrUnsupported):
			t = c.lanes[0].of(v6)
		default:
			return err
		}
		if v6 {
			c.lanes[i].v6 = t
		} else {
			c.lanes[i].v4 = t
		}
	}
	return nil
}

func (l *lane) of(v6 bool) transport {
	if v6 {
		return l.v6
	}
	return l.v4
}

// closedOr is net.ErrClosed in place of the net package's wrappings of it.
func closedOr(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return net.ErrClosed
	}
	return err
}
