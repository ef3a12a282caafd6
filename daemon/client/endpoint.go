package client

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
)

// maxPath is the longest socket path every system takes: macOS has 104 bytes for
// it with the zero at its end, Linux 108.
const maxPath = 103

// pipePrefix begins the name of a named pipe.
const pipePrefix = `\\.\pipe\`

// DefaultEndpoint is where the daemon of this user is expected: a Unix socket's
// path, or the name of a pipe on Windows.
//
//   - Linux, as root: /var/run/overlayd.sock
//   - Linux, as another user: $XDG_RUNTIME_DIR/overlayd.sock
//   - macOS: ~/.overlayd/run/overlayd.sock
//   - Windows: \\.\pipe\overlayd
//
// It is an error if that cannot be told or would be too long; there is no other
// place to fall back to.
func DefaultEndpoint() (string, error) {
	endpoint, err := defaultEndpoint()
	if err != nil {
		return "", err
	}
	return endpoint, CheckEndpoint(endpoint)
}

// DataDirEndpoint is where a daemon with its own data folder is expected.
func DataDirEndpoint(dataDir string) string {
	return filepath.Join(dataDir, "run", "overlayd.sock")
}

// CheckEndpoint reports whether an endpoint is a path a socket can have.
func CheckEndpoint(endpoint string) error {
	switch {
	case endpoint == "":
		return fmt.Errorf("overlayd: the path of the socket is empty")
	case strings.HasPrefix(endpoint, pipePrefix):
	case len(endpoint) > maxPath:
		return fmt.Errorf("overlayd: the socket path %q has %d bytes, and a system takes at most %d: use a shorter one", endpoint, len(endpoint), maxPath)
	case strings.ContainsRune(endpoint, 0):
		return fmt.Errorf("overlayd: the socket path %q has a zero byte in it", endpoint)
	}
	return nil
}

// dialEndpoint connects to a socket or pipe.
func dialEndpoint(ctx context.Context, endpoint string) (net.Conn, error) {
	if strings.HasPrefix(endpoint, pipePrefix) {
		return dialPipe(ctx, endpoint)
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", endpoint)
}
