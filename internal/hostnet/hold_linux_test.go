package hostnet_test

import (
	"os"
	"testing"

	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func openIn(t *testing.T, ns *testnet.Namespace) (h *hostnet.Handle) {
	t.Helper()
	var err error
	ns.Do(func() { h, err = hostnet.Open() })
	require.NoError(t, err)
	return h
}

func TestANamespaceIsHeldByOne(t *testing.T) {
	ns, other := testnet.NewNamespace(t), testnet.NewNamespace(t)
	first, second, elsewhere := openIn(t, ns), openIn(t, ns), openIn(t, other)
	defer second.Close()
	defer elsewhere.Close()
	require.NoError(t, first.Hold())
	require.NoError(t, elsewhere.Hold())
	for range 20 { // more than wait to be accepted
		var held *hostnet.HeldError
		require.ErrorAs(t, second.Hold(), &held)
		if held.PID != 0 {
			require.Equal(t, os.Getpid(), held.PID)
			require.ErrorContains(t, held, "stop it")
		}
	}
	first.Close()
	require.NoError(t, second.Hold())
}

// socketIn makes a socket with the name that is held.
func socketIn(t *testing.T, ns *testnet.Namespace, listen bool) {
	t.Helper()
	ns.Do(func() {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		require.NoError(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: "@overlayd"}))
		if listen {
			// Who listens is known by the rights of the moment.
			become(t, 65534)
			err := unix.Listen(fd, 1)
			become(t, 0)
			require.NoError(t, err)
		}
	})
}

// become gives the calling thread alone the rights of a user.
func become(t *testing.T, user uintptr) {
	t.Helper()
	_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), user, ^uintptr(0))
	require.Zero(t, errno)
}

func TestWhoHasNoRightsHoldsNoNamespace(t *testing.T) {
	for _, listen := range []bool{false, true} {
		ns := testnet.NewNamespace(t)
		socketIn(t, ns, listen)
		h := openIn(t, ns)
		require.NoError(t, h.Hold())
		h.Close()
	}
}
