//go:build !linux

package hostnet

import (
	"errors"
	"net/netip"
)

// A Handle cannot be had on this system.
type Handle struct{}

// Open returns errors.ErrUnsupported.
func Open() (*Handle, error) { return nil, errors.ErrUnsupported }

func (*Handle) Close() {}

func (*Handle) Link(int) (Link, error)                   { return Link{}, errors.ErrUnsupported }
func (*Handle) LinkByName(string) (Link, error)          { return Link{}, errors.ErrUnsupported }
func (*Handle) SetMTU(int, int) error                    { return errors.ErrUnsupported }
func (*Handle) SetQueue(int, int) error                  { return errors.ErrUnsupported }
func (*Handle) SetUp(int) error                          { return errors.ErrUnsupported }
func (*Handle) SetQuiet(int) error                       { return errors.ErrUnsupported }
func (*Handle) AddAddr(int, netip.Prefix) error          { return errors.ErrUnsupported }
func (*Handle) AddRoute(int, netip.Prefix) error         { return errors.ErrUnsupported }
func (*Handle) Watch(Link, func(Link)) (*Watcher, error) { return nil, errors.ErrUnsupported }

// A Watcher cannot be had on this system.
type Watcher struct{}

func (*Watcher) Close() {}
