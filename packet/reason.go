package packet

// A Reason says why a packet was dropped. It is the one enumeration behind
// counters, traces, captures and tests.
type Reason uint8

const (
	Malformed    Reason = iota + 1 // not a well-formed IP packet
	NoPeer                         // no peer's allowed IPs hold the destination
	NotAllowed                     // the source is not in the sending peer's allowed IPs
	NoEndpoint                     // the peer's endpoint is not known
	NoSession                      // no session with the peer, and its waiting room was full
	TooBig                         // larger than the path takes, and not to be fragmented
	HopLimit                       // time to live ran out
	BadChecksum                    // header or transport checksum is wrong
	Filtered                       // refused by policy
	DeviceFull                     // the receiving device had no room
	DeviceDown                     // the receiving device is set down
	SendFailed                     // the socket refused the datagram
	NoReply                        // a packet that must not be answered was to be
	Unauthentic                    // the datagram failed authentication
	Replayed                       // the datagram's counter was seen before or is too old
	UnknownIndex                   // the datagram names no session of ours
	Expired                        // the session is too old to be used
	Congested                      // marked by the network, and its sender does not speak ECN
	Overloaded                     // more handshakes than there is time for
	Deferred                       // a stage took the packet and answers it later
	numReasons
)

var reasonNames = [numReasons]string{
	"none", "malformed", "no_peer", "not_allowed", "no_endpoint", "no_session",
	"too_big", "hop_limit", "bad_checksum", "filtered", "device_full",
	"device_down", "send_failed", "no_reply", "unauthentic", "replayed", "unknown_index",
	"expired", "congested", "overloaded", "deferred",
}

// NumReasons is one more than the largest Reason.
const NumReasons = int(numReasons)

// String is the reason's name in snake case, as counters and traces use it.
func (r Reason) String() string {
	if r >= numReasons {
		return "unknown"
	}
	return reasonNames[r]
}
