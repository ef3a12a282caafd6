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

// Hold returns errors.ErrUnsupported.
func (*Handle) Hold() error { return errors.ErrUnsupported }

// Namespace tells which namespace the handle reaches.
func (*Handle) Namespace() NamespaceID { return NamespaceID{} }

func (*Handle) Link(int) (Link, error)            { return Link{}, errors.ErrUnsupported }
func (*Handle) LinkByName(string) (Link, error)   { return Link{}, errors.ErrUnsupported }
func (*Handle) Links() ([]Link, error)            { return nil, errors.ErrUnsupported }
func (*Handle) DeleteLink(int) error              { return errors.ErrUnsupported }
func (*Handle) SetAlias(int, string) error        { return errors.ErrUnsupported }
func (*Handle) SetMaster(int, int) error          { return errors.ErrUnsupported }
func (*Handle) SetProxy(int, netip.Addr) error    { return errors.ErrUnsupported }
func (*Handle) DeleteProxy(int, netip.Addr) error { return errors.ErrUnsupported }
func (*Handle) SetMTU(int, int) error             { return errors.ErrUnsupported }

// SetQueue returns errors.ErrUnsupported.
func (*Handle) SetQueue(int, int) error { return errors.ErrUnsupported }

func (*Handle) SetUp(int) error                    { return errors.ErrUnsupported }
func (*Handle) SetQuiet(int) error                 { return errors.ErrUnsupported }
func (*Handle) AddAddr(int, netip.Prefix) error    { return errors.ErrUnsupported }
func (*Handle) DeleteAddr(int, netip.Prefix) error { return errors.ErrUnsupported }
func (*Handle) Addrs(int) ([]netip.Prefix, error)  { return nil, errors.ErrUnsupported }
func (*Handle) AddRoute(int, netip.Prefix) error   { return errors.ErrUnsupported }
func (*Handle) SetRoute(Route) error               { return errors.ErrUnsupported }
func (*Handle) DeleteRoute(Route) error            { return errors.ErrUnsupported }
func (*Handle) Routes(int) ([]Route, error)        { return nil, errors.ErrUnsupported }
func (*Handle) AddGuard(netip.Prefix) error        { return errors.ErrUnsupported }
func (*Handle) DeleteGuard(netip.Prefix) error     { return errors.ErrUnsupported }
func (*Handle) Guards() ([]netip.Prefix, error)    { return nil, errors.ErrUnsupported }
func (*Handle) LookupRoute(netip.Addr, netip.Addr, int) (Route, bool, error) {
	return Route{}, false, errors.ErrUnsupported
}
func (*Handle) EnsureBridge(Bridge) (Link, bool, error)        { return Link{}, false, errors.ErrUnsupported }
func (*Handle) AddVeth(Veth) (Link, error)                     { return Link{}, errors.ErrUnsupported }
func (*Handle) CheckVeth(Veth) error                           { return errors.ErrUnsupported }
func (*Handle) CheckInside(...Veth) error                      { return errors.ErrUnsupported }
func (*Handle) MendVeth(Veth) error                            { return errors.ErrUnsupported }
func (*Handle) SetFirewall(Firewall) error                     { return errors.ErrUnsupported }
func (*Handle) RemoveFirewall() error                          { return errors.ErrUnsupported }
func (*Handle) HasFirewall() (bool, error)                     { return false, errors.ErrUnsupported }
func (*Handle) LacksBridgeRules() bool                         { return false }
func (*Handle) DropChains(string) ([]DropChain, error)         { return nil, errors.ErrUnsupported }
func (*Handle) Watch(Link, func(Link)) (*Watcher, error)       { return nil, errors.ErrUnsupported }
func (*Handle) WatchLinks(func([]LinkEvent)) (*Watcher, error) { return nil, errors.ErrUnsupported }

// A Watcher cannot be had on this system.
type Watcher struct{}

func (*Watcher) Close() {}

// A Namespace cannot be had on this system.
type Namespace struct{}

// ProcessNamespace returns errors.ErrUnsupported.
func ProcessNamespace(uint32) (*Namespace, error) { return nil, errors.ErrUnsupported }

func (*Namespace) ID() NamespaceID { return NamespaceID{} }
func (*Namespace) Close() error    { return nil }

// OwnNamespace returns errors.ErrUnsupported.
func OwnNamespace() (NamespaceID, error) { return NamespaceID{}, errors.ErrUnsupported }

// HostNamespace returns errors.ErrUnsupported.
func HostNamespace() (NamespaceID, error) { return NamespaceID{}, errors.ErrUnsupported }

// BootID returns errors.ErrUnsupported.
func BootID() (string, error) { return "", errors.ErrUnsupported }

// ReadSysctl returns errors.ErrUnsupported.
func ReadSysctl(string) (string, error) { return "", errors.ErrUnsupported }

// WriteSysctl returns errors.ErrUnsupported.
func WriteSysctl(string, string) error { return errors.ErrUnsupported }
