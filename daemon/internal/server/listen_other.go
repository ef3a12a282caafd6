//go:build !linux && !darwin && !windows

package server

import (
	"errors"
	"net"
)

func (s *Server) listen(string) (net.Listener, error) { return nil, errors.ErrUnsupported }
