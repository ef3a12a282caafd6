package netstack

import (
	"container/list"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// maxOrphans is how many closed connections may linger: to deliver what was
// written, to wait for the peer's end, or in TIME-WAIT for a minute. Each holds
// some 8 KB, and a client that connects as fast as it can leaves ten thousand a
// second.
//
// From maxTimeWait on none begins to linger in TIME-WAIT, as on Linux beyond
// tcp_max_tw_buckets. What they hold is many small things, which every collection of
// garbage looks at: a thousand of them made up most of what there was to look at.
// Without TIME-WAIT, a peer that did not get the last acknowledgement gets a reset
// in its place, after its program has closed (RFC 9293 section 3.10.7.1).
const (
	maxOrphans  = 2048
	maxTimeWait = 128
)

// orphans are the closed connections that linger, oldest first. When there are
// too many, the oldest is reset, as on Linux beyond tcp_max_orphans.
type orphans struct {
	ip   *stack.Stack
	most int // maxOrphans, but in a test
	wait int // maxTimeWait, but in a test

	mu      sync.Mutex
	list    list.List // of *orphan
	crowded bool      // there is no TIME-WAIT
}

type orphan struct {
	all     *orphans
	ep      tcpip.Endpoint
	entry   waiter.Entry
	element *list.Element // under all.mu; nil when it is not in the list
}

// add takes over an endpoint that was closed.
func (o *orphans) add(ep tcpip.Endpoint, queue *waiter.Queue) {
	k := &orphan{all: o, ep: ep}
	var oldest *orphan
	o.mu.Lock()
	k.element = o.list.PushBack(k)
	o.countLocked()
	if o.list.Len() > o.most {
		oldest = o.list.Front().Value.(*orphan)
		oldest.removeLocked()
	}
	o.mu.Unlock()
	k.entry.Init(k, waiter.EventHUp)
	queue.EventRegister(&k.entry)
	k.NotifyEvent(0) // it may have ended meanwhile
	if oldest != nil {
		oldest.ep.Abort()
	}
}

// NotifyEvent implements waiter.EventListener: something ended, maybe the
// lingering.
func (k *orphan) NotifyEvent(waiter.EventMask) {
	switch tcp.EndpointState(k.ep.State()) {
	case tcp.StateClose, tcp.StateError:
		k.all.mu.Lock()
		k.removeLocked()
		k.all.mu.Unlock()
	}
}

func (k *orphan) removeLocked() {
	if k.element != nil {
		k.all.list.Remove(k.element)
		k.element = nil
		k.all.countLocked()
	}
}

// countLocked decides whether there is TIME-WAIT.
func (o *orphans) countLocked() {
	crowded := o.list.Len() > o.wait
	if crowded == o.crowded {
		return
	}
	o.crowded = crowded
	wait := tcpip.TCPTimeWaitTimeoutOption(tcp.DefaultTCPTimeWaitTimeout)
	if crowded {
		wait = 0
	}
	o.ip.SetTransportProtocolOption(tcp.ProtocolNumber, &wait) // fails for none of its own options
}
