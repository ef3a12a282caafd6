package hostnet

import "errors"

func (h *Handle) SetFirewall(f Firewall) error { return errors.ErrUnsupported }
func (h *Handle) RemoveFirewall() error        { return errors.ErrUnsupported }
func (h *Handle) HasFirewall() (bool, error)   { return false, errors.ErrUnsupported }
