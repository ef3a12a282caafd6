package hostnet

import "errors"

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
