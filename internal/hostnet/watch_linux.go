package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Watcher tells of changes of links.
type Watcher struct {
	changes *os.File // a netlink socket, told of every link of the namespace
	ended   chan struct{}
}

// Watch calls changed, from a goroutine of its own, each time the link is no
// longer what it was at the last call, or at first what is given as it was; with
// the zero Link, and for the last time, when it is gone. Changes that follow
// each other quickly may make one call.
//
// A link that leaves the namespace counts as gone.
func (h *Handle) Watch(was Link, changed func(Link)) (*Watcher, error) {
	w, err := h.newWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch link %s: %w", was.Name, err)
	}
	go w.run(h, was, changed)
	return w, nil
}

func (h *Handle) newWatcher() (*Watcher, error) {
	fd := -1
	err := h.namespace.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK})
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &Watcher{changes: os.NewFile(uintptr(fd), "netlink"), ended: make(chan struct{})}, nil
}

// Close ends the watch. When it returns, changed is not running and will not be
// called again; so changed must not call it. It comes before the handle's.
func (w *Watcher) Close() {
	w.changes.Close()
	<-w.ended
}

func (w *Watcher) run(h *Handle, was Link, changed func(Link)) {
	defer close(w.ended)
	buf := make([]byte, 16<<10)
	for {
		// What a message says is not used, only that something happened: the link is
		// asked for its state. So it does not matter when messages are lost because
		// there were too many (ENOBUFS, netlink(7)), or before the first.
		is, err := h.Link(was.Index)
		switch {
		case errors.Is(err, unix.ENODEV):
			changed(Link{})
			return
		case err == nil && is != was:
			changed(is)
			was = is
		}
		for {
			n, err := w.changes.Read(buf)
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			if err != nil || mentions(buf[:n], was.Index) {
				break
			}
		}
	}
}

// mentions reports whether one of the messages is of the link, or cannot be read.
func mentions(messages []byte, index int) bool {
	parsed, err := syscall.ParseNetlinkMessage(messages)
	if err != nil {
		return true
	}
	for _, m := range parsed {
		// struct ifinfomsg has the index in its second four bytes (rtnetlink(7)).
		if len(m.Data) < unix.SizeofIfInfomsg || int(int32(binary.NativeEndian.Uint32(m.Data[4:]))) == index {
			return true
		}
	}
	return false
}
