package overlay

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"syscall"

	"github.com/overlayd/overlayd/packet"
)

// A Node is one end of a WireGuard overlay. All its methods are safe for
// concurrent use; after Close those that return an error return one that is
// net.ErrClosed, and the others what they last knew.
type Node struct {
	cfg    Config
	public PublicKey
	engine engine

	// mu orders changes: it guards peers, owners and ended, and is never held
	// while a name is resolved.
	mu     sync.Mutex
	peers  map[PublicKey]*peer
	owners *ownerTable
	ended  bool

	lookups *lookups

	closeOnce sync.Once
	closing   chan struct{} // closed when Close was called
	done      chan struct{} // closed when everything has ended
	err       error         // written before done is closed
	closeErr  error
}

// New starts a node without peers. It returns a running node, which owns
// cfg.Device, or an error and leaves the device as it was.
//
// A bad setting is a *ConfigError; for a port that is in use it wraps
// syscall.EADDRINUSE.
func New(cfg Config) (*Node, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg:     cfg,
		public:  cfg.PrivateKey.Public(),
		peers:   make(map[PublicKey]*peer),
		owners:  new(ownerTable),
		lookups: newLookups(),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	n.engine, err = newEngine(cfg.Engine, cfg.engine(n.unreachable))
	if err != nil {
		return nil, startError(cfg, err)
	}
	n.cfg.PrivateKey = PrivateKey{} // the engine has the only copy now
	go n.run()
	return n, nil
}

// startError says which setting kept the engine from starting.
func startError(cfg Config, err error) error {
	var configErr *ConfigError
	switch {
	case errors.As(err, &configErr):
		return err
	case cfg.ListenPort != 0 && (errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES)):
		return &ConfigError{Field: "ListenPort", Value: strconv.Itoa(int(cfg.ListenPort)), Err: err}
	case cfg.FwMark != 0 && errors.Is(err, syscall.EPERM):
		return &ConfigError{Field: "FwMark", Value: strconv.FormatUint(uint64(cfg.FwMark), 10), Err: err}
	}
	return fmt.Errorf("overlay: start node: %w", err)
}

// run waits for the end, whoever brings it, and ends everything.
func (n *Node) run() {
	select {
	case <-n.closing:
	case <-n.engine.Done():
		select {
		case <-n.closing:
		default:
			n.err = n.engine.Err()
			n.cfg.Logger.Error("overlay: node ended", "device", n.cfg.Device.Name(), "err", n.err)
		}
	}
	n.mu.Lock()
	n.ended = true
	for _, p := range n.peers {
		p.PresharedKey = PresharedKey{}
	}
	n.mu.Unlock()
	n.lookups.end()
	deviceErr := n.cfg.Device.Close() // ends the engine's reads
	engineErr := n.engine.Close()
	n.closeErr = errors.Join(deviceErr, engineErr)
	close(n.done)
}

// Close ends the node: it closes the device, ends name lookups in progress,
// wipes the keys and returns when nothing of the node runs any more. It is
// idempotent.
func (n *Node) Close() error {
	n.closeOnce.Do(func() { close(n.closing) })
	<-n.done
	return n.closeErr
}

// Done is closed when the node has ended: by Close, or by itself because its
// device or socket failed or was closed by someone else.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err is why the node ended by itself; nil while it runs and after Close ended
// it.
func (n *Node) Err() error {
	select {
	case <-n.done:
		return n.err
	default:
		return nil
	}
}

// PublicKey is the key by which peers know the node.
func (n *Node) PublicKey() PublicKey { return n.public }

// ListenPort is the UDP port in use.
func (n *Node) ListenPort() uint16 { return n.engine.Port() }

// Stats is everything counted since the node started.
func (n *Node) Stats() Stats { return Stats(n.engine.Stats()) }

// Stats counts IP packets, each segment of a superpacket as one, since the node
// started.
type Stats struct {
	RxPackets uint64 // from peers, before the stages
	TxPackets uint64 // to peers, after the stages
	RxBytes   uint64 // of those packets, IP headers included
	TxBytes   uint64
	Bounces   uint64                    // packets a stage answered, either way
	Drops     [packet.NumReasons]uint64 // by packet.Reason
}
