package server

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/overlayd/overlayd/daemon/wire"
)

const (
	// maxPath is the longest socket path every system takes: macOS has 104 bytes for
	// it with the zero at its end, Linux 108.
	maxPath = 103

	// pipePrefix begins the name of a named pipe.
	pipePrefix = `\\.\pipe\`
)

// Listen makes the endpoint, private from its first moment on: a Unix socket, with
// the folder it is in, or on Windows a named pipe. It is for the daemon's own user,
// and the members of the group of the config if there is one.
//
// A socket that a daemon answers at is refused, with who that is, as a wire.Conflict
// and syscall.EADDRINUSE, and a stale one replaced; what is no socket is never
// removed. When the listener is closed, the
// socket file goes, unless it is another one by then.
func (s *Server) Listen(endpoint string) (net.Listener, error) {
	if err := checkEndpoint(endpoint); err != nil {
		return nil, err
	}
	l, err := s.listen(endpoint)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", endpoint, err)
	}
	return l, nil
}

// taken is the error of an endpoint that another daemon has.
type taken string

func (e taken) Error() string { return string(e) }

func (taken) Unwrap() []error { return []error{wire.Conflict, syscall.EADDRINUSE} }

// checkEndpoint reports whether an endpoint is a path a socket can have.
func checkEndpoint(endpoint string) error {
	switch {
	case endpoint == "":
		return errors.New("the path of the socket is empty: give one")
	case strings.HasPrefix(endpoint, pipePrefix):
	case len(endpoint) > maxPath:
		return fmt.Errorf("socket %s: its path has %d bytes, and a system takes at most %d: use a shorter one", endpoint, len(endpoint), maxPath)
	case strings.ContainsRune(endpoint, 0):
		return fmt.Errorf("socket %q: its path has a zero byte in it", endpoint)
	}
	return nil
}
