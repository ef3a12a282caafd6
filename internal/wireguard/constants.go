package wireguard

import "time"

// Timing and limits of the whitepaper, section 6.1, and of wireguard-go where
// the whitepaper leaves them open.
const (
	rekeyAfterMessages  = 1 << 60
	rejectAfterMessages = 1<<64 - 1<<13 - 1

	rekeyAfterTime   = 120 * time.Second
	rekeyAttemptTime = 90 * time.Second
	rekeyTimeout     = 5 * time.Second
	rekeyJitter      = 334 * time.Millisecond // so that two peers do not call each other in step
	rejectAfterTime  = 180 * time.Second
	keepaliveTimeout = 10 * time.Second

	forgetKeysAfter = 3 * rejectAfterTime // without a new session, all keys go

	maxHandshakeAttempts = int(rekeyAttemptTime / rekeyTimeout)

	// initiationInterval bounds how often one peer makes us do the work of a
	// handshake: wireguard-go's HandshakeInitationRate.
	initiationInterval = time.Second / 50

	// crossingTime is how long apart at most two sessions are made whose handshakes
	// crossed: a round trip.
	crossingTime = time.Second

	paddingMultiple = 16
)

// Memory of the data path. Nothing here grows with traffic.
const (
	sealArena  = 192 << 10 // datagrams sealed and not yet sent: two superpackets and then some
	openArena  = 256 << 10 // packets opened and not yet delivered
	maxRuns    = 64        // runs of datagrams in one send
	maxReceive = 32        // runs of datagrams in one receive

	maxStagedPackets = 128       // waiting for a peer's handshake, as wireguard-go
	maxStagedBytes   = 256 << 10 // and their bytes
)
