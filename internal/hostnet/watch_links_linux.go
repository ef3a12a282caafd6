package hostnet

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// WatchLinks calls changed, from a goroutine of its own, when links of the namespace
// are made, changed or gone, in that order for each of them. Those that follow each
// other quickly make one call, with the last state of each link. A link that is
// moved to another namespace is gone from this.
//
// No removal is missed of a link that there is when WatchLinks returns, or that was
// told later: when the kernel has lost messages because there were too many, links
// are listed, and compared. Only one that came and went while messages were lost is
// not told at all: who makes links looks for his own once he watches them.
func (h *Handle) WatchLinks(changed func([]LinkEvent)) (*Watcher, error) {
	w, err := h.watchLinks(changed)
	if err != nil {
		return nil, fmt.Errorf("watch links: %w", err)
	}
	return w, nil
}

// watchBuffer is how many bytes of messages wait for us, which the kernel takes from
// its memory when there are any: those of some thousand changes. It is a variable for
// tests.
var watchBuffer = 8 << 20

func (h *Handle) watchLinks(changed func([]LinkEvent)) (*Watcher, error) {
	w, err := h.newWatcher()
	if err != nil {
		return nil, err
	}
	conn, err := w.changes.SyscallConn()
	if err != nil {
		w.changes.Close()
		return nil, err
	}
	conn.Control(func(fd uintptr) {
		// Beyond the system's bound (net.core.rmem_max) if we may; less is only slower.
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer) != nil {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, watchBuffer)
		}
	})
	links, err := h.Links()
	if err != nil {
		w.changes.Close()
		return nil, err
	}
	l := linkWatch{h, conn, make(map[int]Link, len(links)), changed}
	for _, link := range links {
		l.known[link.Index] = link
	}
	go func() {
		defer close(w.ended)
		l.run()
	}()
	return w, nil
}

// A linkWatch is WatchLinks at work.
type linkWatch struct {
	host    *Handle
	conn    syscall.RawConn
	known   map[int]Link // as changed was told, or as they were before
	changed func([]LinkEvent)
}

func (l *linkWatch) run() {
	buf := make([]byte, 64<<10)
	for {
		events, lost, err := l.receive(buf)
		if err != nil {
			return
		}
		if lost {
			// What was received is older than what is listed now.
			if events, err = l.compare(); err != nil {
				return
			}
		}
		if events = l.learn(events); len(events) > 0 {
			l.changed(events)
		}
	}
}

// A watchBatch is how many events make a call, at most about.
const watchBatch = 4096

// receive waits for messages and takes all there are. It says whether some were
// lost, and then has read all that were left.
func (l *linkWatch) receive(buf []byte) (events []LinkEvent, lost bool, err error) {
	var failed error
	err = l.conn.Read(func(fd uintptr) bool {
		for len(events) < watchBatch || lost {
			n, err := unix.Read(int(fd), buf)
			switch {
			case err == unix.EINTR:
			case err == unix.EAGAIN:
				return lost || len(events) > 0
			case err == unix.ENOBUFS: // netlink(7)
				lost = true
			case err != nil:
				failed = err
				return true
			case !lost:
				var ok bool
				if events, ok = appendEvents(events, buf[:n]); !ok {
					lost = true
				}
			}
		}
		return true
	})
	return events, lost, errors.Join(err, failed)
}

// appendEvents appends what messages say. It says whether they could be read.
func appendEvents(events []LinkEvent, messages []byte) ([]LinkEvent, bool) {
	parsed, err := syscall.ParseNetlinkMessage(messages)
	if err != nil {
		return events, false
	}
	for _, m := range parsed {
		if m.Header.Type != unix.RTM_NEWLINK && m.Header.Type != unix.RTM_DELLINK {
			continue
		}
		if len(m.Data) < unix.SizeofIfInfomsg {
			return events, false
		}
		// Of family AF_BRIDGE are what bridges say of their ports: the end of one is
		// not the link's.
		if m.Data[0] != unix.AF_UNSPEC {
			continue
		}
		link, err := netlink.LinkDeserialize((*unix.NlMsghdr)(&m.Header), m.Data)
		if err != nil {
			return events, false
		}
		events = append(events, LinkEvent{toLink(link), m.Header.Type == unix.RTM_DELLINK})
	}
	return events, true
}

// learn keeps of events the last of each link, in the order of those, and of these
// what changes what is known.
func (l *linkWatch) learn(events []LinkEvent) []LinkEvent {
	last := make(map[int]int, len(events))
	for i, e := range events {
		last[e.Link.Index] = i
	}
	news := events[:0]
	for i, e := range events {
		if last[e.Link.Index] != i {
			continue
		}
		switch was, is := l.known[e.Link.Index]; {
		case e.Gone:
			delete(l.known, e.Link.Index)
		case is && was == e.Link:
			continue
		default:
			l.known[e.Link.Index] = e.Link
		}
		news = append(news, e)
	}
	return news
}

// compare returns what the links of now say, gone ones first. An error is the end of
// the watch.
func (l *linkWatch) compare() ([]LinkEvent, error) {
	for try := 1; ; try++ {
		links, complete, err := l.host.someLinks()
		if err == nil && (complete || try > 100) {
			return l.differences(links, complete), nil
		}
		if err != nil { // memory may be short
			time.Sleep(10 * time.Millisecond)
		}
		if err := l.conn.Control(func(uintptr) {}); err != nil {
			return nil, err // closed
		}
	}
}

// differences returns what a list of links says. In a list during which links changed
// some may be missing, so each that is missing is asked for by itself.
func (l *linkWatch) differences(links []Link, complete bool) (events []LinkEvent) {
	there := make(map[int]bool, len(links))
	for _, link := range links {
		there[link.Index] = true
	}
	for index, was := range l.known {
		if there[index] {
			continue
		}
		if !complete {
			if _, err := l.host.Link(index); !errors.Is(err, unix.ENODEV) {
				continue
			}
		}
		events = append(events, LinkEvent{was, true})
	}
	for _, link := range links {
		events = append(events, LinkEvent{Link: link})
	}
	return events
}
