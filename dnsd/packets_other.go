//go:build !linux

package dnsd

import "net"

// readBatches reports that the system takes and gives datagrams one at a time.
func (s *Server) readBatches(*net.UDPConn) bool { return false }
