package netstack

import (
	"fmt"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Every default of TCP's settings. What bench/TCP.md measured speaks for them.
const (
	minTCPBuffer     = tcp.MinBufferSize
	initialTCPBuffer = 1 << 20
	maxTCPBuffer     = 1 << 30 // the largest window there is (RFC 7323 section 2.2)

	defaultRecvBuffer        = 4 << 20
	defaultSendBuffer        = 4 << 20
	farBuffer                = 8 << 20 // in place of those where the path is long
	farRTT                   = 30 * time.Millisecond
	defaultCongestionControl = "cubic"
	defaultLossDetection     = "sack"
)

// TCP are the settings of a stack's TCP.
type TCP struct {
	// RecvBuffer is how many bytes a connection's receive buffer may grow to. Half
	// of it is the largest window.
	//
	// 0 means 4 MiB, and 8 MiB for a connection whose handshake took 30 ms or more
	// and that its window then holds up, so that a path of 66 ms takes 500 Mbit/s.
	// gVisor grows buffers until they are full however short the path is, and with
	// more than 4 MiB a few connections at once run over the socket buffer that the
	// system gives the tunnel, or one over the queue of a slower link, and lose what
	// they have to send again.
	RecvBuffer int

	// SendBuffer is how many bytes a connection's send buffer may grow to. Half of
	// it is what may be under way. 0 means 4 MiB, and 8 MiB for a connection whose
	// handshake took 30 ms or more.
	SendBuffer int

	// CongestionControl is "cubic" (RFC 9438) or "reno" (RFC 5681). Empty means
	// "cubic", which fills long links better.
	CongestionControl string

	// LossDetection is "rack" (RFC 8985) or "sack" (RFC 6675). Empty means "sack".
	//
	// RACK stands reordering better. But gVisor's probes for a lost tail after two
	// round trips, however short, and takes the answer of a receiver that sends no
	// duplicate SACK (RFC 2883), as its own, for a loss: a busy machine is enough,
	// and where a link's queue does overflow it falls into timeouts. It also has no
	// allowance for a clock as coarse as that of Windows.
	LossDetection string
}

// apply checks the settings, completes them and makes them ip's.
func (t TCP) apply(ip *stack.Stack) error {
	if t.RecvBuffer == 0 {
		t.RecvBuffer = defaultRecvBuffer
	}
	if t.SendBuffer == 0 {
		t.SendBuffer = defaultSendBuffer
	}
	if t.CongestionControl == "" {
		t.CongestionControl = defaultCongestionControl
	}
	if t.LossDetection == "" {
		t.LossDetection = defaultLossDetection
	}
	for _, b := range []struct {
		name string
		size int
	}{{"RecvBuffer", t.RecvBuffer}, {"SendBuffer", t.SendBuffer}} {
		if b.size < minTCPBuffer || b.size > maxTCPBuffer {
			return fmt.Errorf("netstack: TCP.%s %d is not between %d and %d", b.name, b.size, minTCPBuffer, maxTCPBuffer)
		}
	}
	var recovery tcpip.TCPRecovery
	switch t.LossDetection {
	case "rack":
		recovery = tcpip.TCPRACKLossDetection
	case "sack":
	default:
		return fmt.Errorf("netstack: TCP.LossDetection %q is neither \"rack\" nor \"sack\"", t.LossDetection)
	}
	congestion := tcpip.CongestionControlOption(t.CongestionControl)
	if err := ip.SetTransportProtocolOption(tcp.ProtocolNumber, &congestion); err != nil {
		return fmt.Errorf("netstack: TCP.CongestionControl %q is neither \"cubic\" nor \"reno\"", t.CongestionControl)
	}
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	for _, option := range []tcpip.SettableTransportProtocolOption{
		&sack,
		&recovery,
		&moderate,
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: minTCPBuffer, Default: min(initialTCPBuffer, t.RecvBuffer), Max: t.RecvBuffer},
		&tcpip.TCPSendBufferSizeRangeOption{Min: minTCPBuffer, Default: min(initialTCPBuffer, t.SendBuffer), Max: t.SendBuffer},
	} {
		if err := ip.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("netstack: setting TCP's %T: %s", option, err)
		}
	}
	return nil
}
