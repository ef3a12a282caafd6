package wireguard

import "github.com/overlayd/overlayd/internal/udp"

// A transport carries datagrams: the sockets of internal/udp, or a test's
// network.
type transport interface {
	// Port is the local UDP port.
	Port() uint16
	// Send sends every message and reports how many went out; the error is the
	// first one's that did not. Safe for use by several goroutines.
	Send(lane int, messages []udp.Message) (sent int, err error)
	// Close ends every Receive with net.ErrClosed.
	Close() error
}

// A receiver is one source of datagrams, read by one goroutine.
type receiver interface {
	Lane() int
	Receive(messages []udp.Message) (n int, err error)
}
