package daemon_test

import (
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/overlayd/overlayd/internal/testnet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// capture keeps every IP packet that a namespace sees on its links. What it returns
// ends it and gives the packets.
func capture(t *testing.T, ns *testnet.Namespace) func() [][]byte {
	t.Helper()
	const everything = (unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8) & 0xffff // in network order (packet(7))
	var fd int
	var err error
	ns.Do(func() {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, everything)
	})
	require.NoError(t, err)
	file := os.NewFile(uintptr(fd), "capture") // so that a deadline ends Read
	t.Cleanup(func() { file.Close() })
	var packets [][]byte
	var done sync.WaitGroup
	done.Go(func() {
		for buf := make([]byte, 1<<16); ; {
			n, err := file.Read(buf)
			if err != nil {
				return
			}
			packets = append(packets, append([]byte(nil), buf[:n]...))
		}
	})
	return func() [][]byte {
		require.NoError(t, file.SetReadDeadline(time.Now()))
		done.Wait()
		for buf := make([]byte, 1<<16); ; { // what is there, and was not read yet
			n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
			if err != nil {
				require.ErrorIs(t, err, unix.EAGAIN)
				return packets
			}
			packets = append(packets, append([]byte(nil), buf[:n]...))
		}
	}
}

// addresses are an IP packet's; neither is valid if it is something else.
func addresses(p []byte) (src, dst netip.Addr) {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	case len(p) >= 40 && p[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	}
	return
}
