package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/packet"
	"golang.org/x/sys/unix"
)

// A tunDevice is a TUN on Linux.
type tunDevice struct {
	name     string
	lanes    []*tunLane
	offloads tunOffloads
	mtu      atomic.Int32
	events   chan packet.Event
	host     *hostnet.Handle
	watcher  *hostnet.Watcher

	closing sync.Once
	closed  atomic.Bool
}

func openTUN(config TUNConfig) (*TUN, error) {
	return openTUNWith(config, allTUNOffloads)
}

// openTUNWith makes a TUN with no more than the offloads wanted.
func openTUNWith(config TUNConfig, wanted tunOffloads) (*TUN, error) {
	fds, name, err := createTUN(config.Name, config.Lanes)
	if err != nil {
		return nil, &TUNError{Name: config.Name, Op: "create", Err: err}
	}
	// From here on all there is goes with the descriptors: the interface does not
	// persist (TUNSETPERSIST), and its addresses and routes are its own.
	t := newTUN(name, fds, config.MTU, setOffloads(fds[0], wanted))
	if err := t.configure(config); err != nil {
		t.Close()
		return nil, &TUNError{Name: name, Op: "configure", Err: err}
	}
	return t, nil
}

func newTUN(name string, fds []int, mtu int, offloads tunOffloads) *TUN {
	t := &TUN{tunDevice{
		name:     name,
		offloads: offloads,
		events:   make(chan packet.Event, 8),
	}}
	t.mtu.Store(int32(mtu))
	for _, fd := range fds {
		t.lanes = append(t.lanes, newTUNLane(fd))
	}
	return t
}

// createTUN makes an interface that was not there before, with so many queues,
// and returns their descriptors and its name.
func createTUN(pattern string, queues int) (fds []int, name string, err error) {
	defer func() {
		if err != nil {
			syscall.ForkLock.RLock() // as in Close
			for _, fd := range fds {
				unix.Close(fd)
			}
			syscall.ForkLock.RUnlock()
		}
	}()
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	name = pattern
	for i := range queues {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fds, name, unavailable("open /dev/net/tun", err)
		}
		fds = append(fds, fd)
		request, err := unix.NewIfreq(name)
		if err != nil {
			return fds, name, err
		}
		request.SetUint16(flags)
		if i == 0 {
			request.SetUint16(flags | unix.IFF_TUN_EXCL) // or it might be another's
		}
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		switch {
		case err == unix.EPERM:
			return fds, name, unavailable("TUNSETIFF", err)
		case i == 0 && (err == unix.EBUSY || err == unix.EEXIST): // a name, or an alternative one
			return fds, name, fmt.Errorf("%w; choose another, or remove the interface", ErrNameInUse)
		case err != nil:
			return fds, name, fmt.Errorf("TUNSETIFF: %w", err)
		}
		name = request.Name()
	}
	return fds, name, nil
}

// unavailable says what keeps us from a TUN device, and what would help.
func unavailable(op string, err error) error {
	var help string
	switch {
	case errors.Is(err, fs.ErrNotExist), err == unix.ENODEV, err == unix.ENXIO:
		help = "load the driver (modprobe tun), or give the container the device (--device /dev/net/tun)"
	case err == unix.EPERM:
		help = "run as root, or with CAP_NET_ADMIN in this network namespace"
	case err == unix.EACCES:
		help = "run as root, or let this user read and write /dev/net/tun"
	default:
		return fmt.Errorf("%s: %w", op, err)
	}
	return fmt.Errorf("%w: %s: %w; %s", ErrTUNUnavailable, op, err, help)
}

// transmitQueue is how many packets wait for us to read them, as many as for
// Linux's own WireGuard (DEFAULT_TX_QUEUE_LEN). A TUN's own 500 are, of small
// packets, less than come while the system lets others run.
const transmitQueue = 1000

// configure makes the interface what it is to be.
//
// Its gso_max_size stays at 64 KB, although what fits one send of sealed segments
// (UDP_SEGMENT) is a little less: a superpacket that is forwarded to the interface
// and exceeds a lower one is cut by the kernel, and each segment is a read. That
// is TCP from a container: 0.6 instead of 6 Gbit/s through a veth, Linux 6.18.
func (t *TUN) configure(config TUNConfig) (err error) {
	if t.host, err = hostnet.Open(); err != nil {
		return err
	}
	link, err := t.host.LinkByName(t.name)
	if err != nil {
		return err
	}
	if err := t.host.SetQuiet(link.Index); err != nil {
		return err
	}
	if err := t.host.SetMTU(link.Index, config.MTU); err != nil {
		return err
	}
	if err := t.host.SetQueue(link.Index, transmitQueue); err != nil {
		return err
	}
	if err := t.host.SetUp(link.Index); err != nil {
		return err
	}
	for _, addr := range config.Addrs {
		if err := t.host.AddAddr(link.Index, addr); err != nil {
			return explain(err, addr, "")
		}
	}
	for _, route := range config.Routes {
		onLink := func(addr netip.Prefix) bool { return addr.Masked() == route }
		if slices.ContainsFunc(config.Addrs, onLink) {
			continue // came with the address
		}
		if err := t.host.AddRoute(link.Index, route); err != nil {
			return explain(err, route, "another interface has this route")
		}
	}
	link.Up, link.MTU = true, config.MTU
	t.watcher, err = t.host.Watch(link, func(now hostnet.Link) {
		t.follow(link, now)
		link = now
	})
	return err
}

// explain adds to what the kernel refused what is behind it.
func explain(err error, p netip.Prefix, exists string) error {
	switch {
	case errors.Is(err, unix.EEXIST) && exists != "":
		return fmt.Errorf("%w: %s", err, exists)
	case p.Addr().Is6() && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EOPNOTSUPP)):
		return fmt.Errorf("%w: IPv6 is disabled on this system (net.ipv6.conf.all.disable_ipv6)", err)
	}
	return err
}

// follow tells of what happened to the interface from outside.
func (t *TUN) follow(was, now hostnet.Link) {
	if now == (hostnet.Link{}) {
		return // gone, and ReadBatch says so
	}
	if now.MTU != was.MTU {
		t.mtu.Store(int32(now.MTU))
		t.tell(packet.EventMTU)
	}
	if now.Up && !was.Up {
		t.tell(packet.EventUp)
	}
	if was.Up && !now.Up {
		t.tell(packet.EventDown)
	}
}

// tell is called by one goroutine only, the watcher's, so that there is room for
// what it sends after it has made some.
func (t *TUN) tell(e packet.Event) {
	select {
	case t.events <- e:
		return
	default:
	}
	select {
	case <-t.events: // the oldest
	default:
	}
	t.events <- e
}

// Name implements packet.Device.
func (t *tunDevice) Name() string { return t.name }

// MTU implements packet.Device.
func (t *tunDevice) MTU() int { return int(t.mtu.Load()) }

// Lanes implements packet.Device.
func (t *tunDevice) Lanes() int { return len(t.lanes) }

// Events implements packet.Device.
func (t *tunDevice) Events() <-chan packet.Event { return t.events }

// TakesUDPSegments reports whether superpackets of UDP may be written, and are
// delivered whole. Others are cut before.
func (t *tunDevice) TakesUDPSegments() bool { return t.offloads.udp() }

// Close removes the interface. It ends ReadBatch, and waits for WriteBatch.
func (t *tunDevice) Close() error {
	t.closing.Do(func() {
		t.closed.Store(true)
		if t.watcher != nil {
			t.watcher.Close()
		}
		if t.host != nil {
			t.host.Close()
		}
		// A child between fork and exec has our descriptors, and while it has them the
		// interface stays. There is none while we hold this lock.
		syscall.ForkLock.RLock()
		for _, l := range t.lanes {
			l.close()
		}
		syscall.ForkLock.RUnlock()
		close(t.events)
	})
	return nil
}

// ReadBatch implements packet.Device.
func (t *tunDevice) ReadBatch(b *packet.Batch) error {
	l, err := t.lane(b.Lane)
	if err == nil {
		err = l.read(b, t.MTU())
	}
	return t.failure("read", err)
}

// WriteBatch implements packet.Device.
func (t *tunDevice) WriteBatch(b *packet.Batch) error {
	l, err := t.lane(b.Lane)
	if err == nil {
		err = l.write(b, t.offloads)
	}
	return t.failure("write", err)
}

func (t *tunDevice) lane(n int) (*tunLane, error) {
	if n < 0 || n >= len(t.lanes) {
		return nil, fmt.Errorf("there is no lane %d of %d", n, len(t.lanes))
	}
	return t.lanes[n], nil
}

func (t *tunDevice) failure(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case t.closed.Load():
		err = net.ErrClosed
	case errors.Is(err, unix.EBADFD): // tun_get of linux/drivers/net/tun.c
		err = fmt.Errorf("somebody removed the interface: %w", fs.ErrNotExist)
	}
	return &TUNError{Name: t.name, Op: op, Err: err}
}
