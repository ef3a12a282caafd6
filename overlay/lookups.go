package overlay

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// maxLookups bounds how many names are being resolved at once, for one call
	// and, apart from that, for all peers that do not answer.
	maxLookups = 16

	// lookupTimeout bounds a lookup nobody waits for.
	lookupTimeout = 10 * time.Second
)

// lookups is the resolution of names that goes on by itself.
type lookups struct {
	ctx     context.Context // ends with the node
	cancel  context.CancelCauseFunc
	running sync.WaitGroup

	mu   sync.Mutex // a leaf: nothing else is locked or waited for under it
	busy map[PublicKey]struct{}
}

func newLookups() *lookups {
	l := &lookups{busy: make(map[PublicKey]struct{})}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	return l
}

// bound is ctx, ended also with the node.
func (l *lookups) bound(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(l.ctx, func() { cancel(errClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// begin runs f in a goroutine of its own unless there is one for key already,
// there are too many, or the node has ended.
func (l *lookups) begin(key PublicKey, f func(ctx context.Context)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, found := l.busy[key]; found || len(l.busy) == maxLookups || l.ctx.Err() != nil {
		return
	}
	l.busy[key] = struct{}{}
	l.running.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, lookupTimeout)
		defer cancel()
		f(ctx)
		l.mu.Lock()
		delete(l.busy, key)
		l.mu.Unlock()
	})
}

// end cancels every lookup, and returns when those of begin have ended.
func (l *lookups) end() {
	l.mu.Lock()
	l.cancel(errClosed)
	l.mu.Unlock()
	l.running.Wait()
}

// resolveEndpoint looks up e's name, if it has one.
func (n *Node) resolveEndpoint(ctx context.Context, key PublicKey, e *endpoint) error {
	if e.name == "" {
		return nil
	}
	ctx, done := n.lookups.bound(ctx)
	defer done()
	addrs, err := resolve(ctx, n.cfg.Resolver, e.name)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errClosed) {
			return errClosed
		}
		return &ConfigError{Peer: key, Field: "Endpoint", Value: e.text, Err: err}
	}
	e.addrs, e.at = addrs, 0
	return nil
}

// resolvePeers looks up the names among peers' endpoints, except those the node
// has resolved already.
func (n *Node) resolvePeers(ctx context.Context, peers []*peer) error {
	n.mu.Lock()
	for _, p := range peers {
		inherit(n.peers[p.PublicKey], p)
	}
	n.mu.Unlock()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxLookups)
	for _, p := range peers {
		if p.endpoint.name != "" && len(p.endpoint.addrs) == 0 {
			group.Go(func() error { return n.resolveEndpoint(ctx, p.PublicKey, &p.endpoint) })
		}
	}
	return group.Wait()
}

// unreachable is told by the engine that a peer does not answer handshakes. It
// only takes note, so it may be called from anywhere in the engine.
func (n *Node) unreachable(key [32]byte) {
	n.lookups.begin(key, func(ctx context.Context) { n.resolveAgain(ctx, key) })
}

// resolveAgain resolves the name of a peer that does not answer, and sends to
// the next of its addresses. What does not resolve now leaves the peer as it is.
func (n *Node) resolveAgain(ctx context.Context, key PublicKey) {
	n.mu.Lock()
	p, err := n.lookup(key)
	if err != nil || p.endpoint.name == "" || !p.endpoint.settled() {
		n.mu.Unlock()
		return
	}
	text, name := p.endpoint.text, p.endpoint.name
	n.mu.Unlock()

	addrs, err := resolve(ctx, n.cfg.Resolver, name)
	if err != nil {
		if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			n.cfg.Logger.Warn("overlay: endpoint of a silent peer does not resolve", "peer", key, "endpoint", text, "err", err)
		}
		return
	}
	err = n.change(key, func(p *peer) (newEndpoint bool) {
		if p.endpoint.text != text {
			return false // it was set to another meanwhile
		}
		p.endpoint.advance(addrs)
		return true
	})
	if err == nil {
		n.cfg.Logger.Debug("overlay: resolved the endpoint of a silent peer", "peer", key, "endpoint", text, "addrs", addrs)
	}
}
