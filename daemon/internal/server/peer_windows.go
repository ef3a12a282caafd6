package server

import "net"

// credentials tells nothing of who is at the other end of a pipe, but that they may
// be: the pipe's security descriptor has vetted them.
func credentials(net.Conn) (peer, error) { return peer{privileged: true}, nil }
