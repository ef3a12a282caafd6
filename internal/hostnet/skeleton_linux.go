package hostnet

import (
	"errors"
	"net/netip"
)

type Namespace struct{}

func ProcessNamespace(pid uint32) (*Namespace, error)           { return nil, errors.ErrUnsupported }
func (n *Namespace) ID() NamespaceID                            { return NamespaceID{} }
func (n *Namespace) Close() error                               { return nil }
func OwnNamespace() (NamespaceID, error)                        { return NamespaceID{}, errors.ErrUnsupported }
func HostNamespace() (NamespaceID, error)                       { return NamespaceID{}, errors.ErrUnsupported }
func BootID() (string, error)                                   { return "", errors.ErrUnsupported }
func (h *Handle) Links() ([]Link, error)                        { return nil, errors.ErrUnsupported }
func (h *Handle) DeleteLink(index int) error                    { return errors.ErrUnsupported }
func (h *Handle) SetAlias(index int, alias string) error        { return errors.ErrUnsupported }
func (h *Handle) SetMaster(index, master int) error             { return errors.ErrUnsupported }
func (h *Handle) Addrs(index int) ([]netip.Prefix, error)       { return nil, errors.ErrUnsupported }
func (h *Handle) DeleteAddr(index int, addr netip.Prefix) error { return errors.ErrUnsupported }
func (h *Handle) SetRoute(r Route) error                        { return errors.ErrUnsupported }
func (h *Handle) DeleteRoute(r Route) error                     { return errors.ErrUnsupported }
func (h *Handle) Routes(index int) ([]Route, error)             { return nil, errors.ErrUnsupported }
func (h *Handle) EnsureBridge(b Bridge) (Link, bool, error) {
	return Link{}, false, errors.ErrUnsupported
}
func (h *Handle) AddVeth(v Veth) (Link, error) { return Link{}, errors.ErrUnsupported }
func (h *Handle) CheckVeth(v Veth) error       { return errors.ErrUnsupported }
func (h *Handle) WatchLinks(changed func([]LinkEvent)) (*Watcher, error) {
	return nil, errors.ErrUnsupported
}
func (h *Handle) SetFirewall(f Firewall) error { return errors.ErrUnsupported }
func (h *Handle) RemoveFirewall() error        { return errors.ErrUnsupported }
func (h *Handle) HasFirewall() (bool, error)   { return false, errors.ErrUnsupported }
func ReadSysctl(name string) (string, error)   { return "", errors.ErrUnsupported }
func WriteSysctl(name, value string) error     { return errors.ErrUnsupported }
