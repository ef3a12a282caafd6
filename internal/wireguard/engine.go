package wireguard

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
	"github.com/overlayd/overlayd/internal/udp"
	"github.com/overlayd/overlayd/packet"
)

// An Engine is a running WireGuard interface. All methods are safe for use by
// several goroutines.
type Engine struct {
	config    Config
	identity  *identity
	transport transport
	started   time.Time

	mu     sync.RWMutex // guards peers and who owns which prefix
	peers  map[[32]byte]*peer
	closed bool

	routes   atomic.Pointer[bart.Table[*peer]] // allowed IPs; immutable
	sessions indexTable
	lanes    []sync.Mutex // of the device; held while its inbound stages run

	cookies     *cookieChecker
	load        load
	limiter     limiter
	handshakes  chan handshakeMessage
	initiations chan *peer
	control     struct { // for what is sent off the lanes
		sync.Mutex
		sender *sender
	}
	reaper reaper

	rxPackets, rxBytes, txPackets, txBytes, bounces atomic.Uint64
	drops                                           [packet.NumReasons]atomic.Uint64

	closing   chan struct{} // closed when the engine is to end
	done      chan struct{} // closed when it ended
	running   sync.WaitGroup
	failOnce  sync.Once
	failure   error
	loggedAt  atomic.Int64
	closeOnce sync.Once
}

// New starts an engine on cfg.Device and new UDP sockets. On an error nothing is
// left behind.
func New(cfg Config) (*Engine, error) {
	conn, err := udp.Listen(udp.Config{
		Port:   cfg.ListenPort,
		Lanes:  cfg.Device.Lanes(),
		FwMark: cfg.FwMark,
	})
	if err != nil {
		return nil, err
	}
	var receivers []receiver
	for _, s := range conn.Sockets() {
		receivers = append(receivers, s)
	}
	e, err := start(cfg, conn, receivers)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return e, nil
}

func start(cfg Config, t transport, receivers []receiver) (*Engine, error) {
	id, err := newIdentity(cfg.PrivateKey)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		config:    cfg,
		identity:  id,
		transport: t,
		started:   time.Now(),
		peers:     make(map[[32]byte]*peer),
	}
	e.setUp()
	clear(e.config.PrivateKey[:])
	e.running.Go(e.reaper.run)
	for range min(runtime.GOMAXPROCS(0), 4) {
		e.running.Go(e.work)
	}
	for _, r := range receivers {
		e.running.Go(newInbound(e, r).run)
	}
	for lane := range cfg.Device.Lanes() {
		e.running.Go(newOutbound(e, lane).run)
	}
	return e, nil
}

// setUp makes what the engine's goroutines share.
func (e *Engine) setUp() {
	e.lanes = make([]sync.Mutex, e.config.Device.Lanes())
	e.handshakes = make(chan handshakeMessage, maxHandshakes)
	e.initiations = make(chan *peer, maxHandshakes)
	e.closing = make(chan struct{})
	e.done = make(chan struct{})
	e.routes.Store(new(bart.Table[*peer]))
	e.cookies = newCookieChecker(e.identity.public())
	e.control.sender = newSender(e, 0, packet.MaxSize+packet.BatchSize)
	e.reaper.init()
}

// now is the time since the engine started, in nanoseconds, and never 0.
func (e *Engine) now() int64 { return int64(time.Since(e.started)) + 1 }

// Port is the UDP port the engine listens on.
func (e *Engine) Port() uint16 { return e.transport.Port() }

// Stats is a snapshot of the counters.
func (e *Engine) Stats() Stats {
	st := Stats{
		RxPackets: e.rxPackets.Load(), RxBytes: e.rxBytes.Load(),
		TxPackets: e.txPackets.Load(), TxBytes: e.txBytes.Load(),
		Bounces: e.bounces.Load(),
	}
	for why := range st.Drops {
		st.Drops[why] = e.drops[why].Load()
	}
	return st
}

// Done is closed when the engine has begun to end: by Close, or by an error of
// the device or the sockets, which Err then returns.
func (e *Engine) Done() <-chan struct{} { return e.done }

// Err is why the engine ended by itself: nil before it did, and when Close ended it.
func (e *Engine) Err() error {
	select {
	case <-e.done:
		return e.failure
	default:
		return nil
	}
}

// fail ends the engine because of an error in what a goroutine of it does. After
// Close, and once the device was closed, ending is what was wanted.
func (e *Engine) fail(doing string, err error) {
	select {
	case <-e.closing:
		return
	default:
	}
	e.failOnce.Do(func() {
		e.failure = fmt.Errorf("wireguard: %s: %w", doing, err)
		if !errors.Is(err, net.ErrClosed) {
			e.config.Logger.Error("the engine ended", "doing", doing, "error", err)
		}
		close(e.done)
	})
}

// sendFailed logs why datagrams are not sent, at most once a second.
func (e *Engine) sendFailed(err error) {
	if errors.Is(err, net.ErrClosed) {
		return
	}
	now := e.now()
	if last := e.loggedAt.Load(); last != 0 && now-last < int64(time.Second) || !e.loggedAt.CompareAndSwap(last, now) {
		return
	}
	e.config.Logger.Warn("datagrams were not sent", "error", err)
}

// Close ends the engine, wipes its keys and returns when every goroutine it
// started has ended. It ends the sockets' receives itself; the device's reads end
// when the device is closed, so close that first.
func (e *Engine) Close() error {
	var err error
	e.closeOnce.Do(func() {
		e.failOnce.Do(func() { close(e.done) })
		e.mu.Lock()
		e.closed = true
		peers := e.peers
		e.peers = nil
		e.mu.Unlock()
		close(e.closing)
		for _, p := range peers {
			p.end()
		}
		err = e.transport.Close()
		e.reaper.close()
		e.running.Wait()
		e.reaper.wipe()
		e.identity.wipe()
		e.cookies.wipe()
	})
	return err
}

// name is how a log tells a peer from others: the beginning of its public key.
func (p *peer) name() string {
	return base64.StdEncoding.EncodeToString(p.key[:])[:8] + "…"
}
