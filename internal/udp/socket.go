package udp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
)

// runs is how many runs one system call receives at most. Against one, eight
// take 6 to 10% off the cost of datagrams that cannot be merged and add 2% to that
// of a run of 64 KiB, or of a lone datagram; more gains nothing.
const runs = 8

// bufferSize holds any UDP datagram, and any run the kernel makes.
const bufferSize = 1 << 16

// errTruncated marks a run, from a transport to its Socket, that lacks some of
// its bytes or of what the system knows about it.
var errTruncated = errors.New("truncated")

// A Socket receives the datagrams of one family and lane.
type Socket struct {
	conn *Conn
	t    transport
	lane int

	raw  [runs]Message // as the system gave them; raw[next:have] are still to be told
	next int
	have int

	failures int // of the system, in a row
}

// Lane is the lane of the Conn the socket belongs to.
func (s *Socket) Lane() int { return s.lane }

// Receive waits for at least one run of datagrams, fills ms, which may not be
// empty, with what is there now, and returns how many. It never waits for more.
//
// All datagrams begin as WireGuard's do; what comes after the fourth byte is
// unchecked. The bytes are lent, and the caller's to change, until the next
// Receive of this socket. One goroutine at a time may call it.
//
// After Close the error is net.ErrClosed. Any other error is the system's, and
// has persisted through several attempts.
func (s *Socket) Receive(ms []Message) (n int, err error) {
	for {
		for n < len(ms) && s.next < s.have {
			n += s.tell(&ms[n])
		}
		if n > 0 || len(ms) == 0 {
			return n, nil
		}
		s.next = 0
		if s.have, err = s.t.receive(s.raw[:]); err == nil {
			s.failures = 0
		} else if err = s.endure(err); err != nil {
			return 0, err
		}
	}
}

// receiveAttempts is how often in a row the system may fail to receive, for want
// of memory for one, before the socket counts as broken: for a second or so.
const receiveAttempts = 10

// endure waits, each time twice as long, for a failure to pass. It returns what
// Receive is to tell its caller, if anything.
func (s *Socket) endure(err error) error {
	if err == net.ErrClosed {
		return err
	}
	if s.failures++; s.failures == receiveAttempts {
		s.failures = 0
		return fmt.Errorf("udp: receive on port %d: %w", s.conn.port, err)
	}
	pause := time.NewTimer(time.Millisecond << s.failures)
	defer pause.Stop()
	select {
	case <-pause.C:
		return nil
	case <-s.conn.closed:
		return net.ErrClosed
	}
}

// tell moves the longest stretch of datagrams of one kind from the front of
// raw[next]: WireGuard's to m, others to the hook. It returns how many messages
// that made.
func (s *Socket) tell(m *Message) int {
	run := &s.raw[s.next]
	if run.Err != nil {
		s.conn.truncated.Add(1)
		s.next++
		return 0
	}
	n, ours := stretch(run.Data, run.Seg)
	part := run.Data[:n:n]
	run.Data = run.Data[n:]
	if len(run.Data) == 0 {
		s.next++
	}
	if !ours {
		s.foreign(run, part)
		return 0
	}
	*m = *run
	m.Data, m.Seg = part, min(run.Seg, n)
	return 1
}

// foreign shows the datagrams of part to the hook, one by one.
func (s *Socket) foreign(run *Message, part []byte) {
	for first := true; first || len(part) > 0; first = false {
		n := min(run.Seg, len(part))
		if hook := s.conn.hook; hook == nil || !hook(part[:n:n], run.Endpoint.Addr) {
			s.conn.foreign.Add(1)
		}
		part = part[n:]
	}
}

// stretch is the length of the longest prefix of a run whose datagrams are all
// WireGuard's, or all not. It ends between two datagrams, and is not empty
// unless the run is.
func stretch(run []byte, seg int) (n int, ours bool) {
	if seg <= 0 || seg > len(run) {
		seg = len(run)
	}
	ours = wireguard(run[:seg])
	for n = seg; n < len(run); n += seg {
		if wireguard(run[n:min(n+seg, len(run))]) != ours {
			return n, ours
		}
	}
	return len(run), ours
}

// wireguard reports whether a datagram begins with a WireGuard message type and
// its three reserved zero bytes (whitepaper section 5.4).
func wireguard(datagram []byte) bool {
	return len(datagram) >= 4 && binary.LittleEndian.Uint32(datagram)-1 < 4
}
