package udp

import (
	"encoding/binary"
)

// runs is how many runs one system call receives at most.
const runs = 8

// bufferSize holds any UDP datagram, and any run the kernel makes.
const bufferSize = 1 << 16

// A Socket receives the datagrams of one family and lane.
type Socket struct {
	conn *Conn
	t    transport
	lane int

	raw  [runs]Message // as the system gave them; raw[next:have] are still to be told
	next int
	have int
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
// may pass.
func (s *Socket) Receive(ms []Message) (n int, err error) {
	for {
		for n < len(ms) && s.next < s.have {
			n += s.tell(&ms[n])
		}
		if n > 0 || len(ms) == 0 {
			return n, nil
		}
		s.next, s.have = 0, 0
		if s.have, err = s.t.receive(s.raw[:]); err != nil {
			return 0, err
		}
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
		if hook := s.conn.hook; hook == nil || !hook(part[:n:n], run.Endpoint.AddrPort()) {
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
	ours = wireguard(run)
	for n = seg; n < len(run); n += seg {
		if wireguard(run[n:]) != ours {
			return n, ours
		}
	}
	return min(n, len(run)), ours
}

// wireguard reports whether a datagram begins with a WireGuard message type and
// its three reserved zero bytes (whitepaper section 5.4).
func wireguard(datagram []byte) bool {
	return len(datagram) >= 4 && binary.LittleEndian.Uint32(datagram)-1 < 4
}
