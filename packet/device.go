package packet

// A Device moves IP packets between the overlay and a kernel, a TCP/IP stack or
// a test. It has one or more lanes; each lane is read by one goroutine.
type Device interface {
	// ReadBatch waits until the device has at least one packet for b.Lane, then
	// appends what is there now to b, which it resets first. It never waits for
	// more. The bytes it lends are the reader's to change until the next
	// ReadBatch on the same lane, each packet with room to grow to the MTU and
	// Slack bytes past its end. The checksums of ordinary packets are complete.
	// After Close it returns an error that is net.ErrClosed.
	ReadBatch(b *Batch) error

	// WriteBatch hands the live packets of b to the device, on b.Lane. It never
	// waits for a reader: what does not fit is dropped and counted. It may write
	// into the packets, keeps nothing, and the batch is the caller's again when it
	// returns. Safe for use by several goroutines. An error concerns the device;
	// after Close it is net.ErrClosed.
	WriteBatch(b *Batch) error

	// Lanes is how many lanes there are; it never changes.
	Lanes() int

	// MTU is the largest ordinary packet in bytes, and may change with an
	// EventMTU.
	MTU() int

	// Name is the interface's name, or one that tells the device apart in a log.
	Name() string

	// Events reports what happens to the device from outside. The channel is
	// closed by Close.
	Events() <-chan Event

	// Close ends every ReadBatch and releases what the device holds. It is
	// idempotent and returns when nothing of the device runs any more.
	Close() error
}

// An Event is something that happened to a device.
type Event uint8

const (
	EventUp   Event = iota + 1 // the interface was set up
	EventDown                  // the interface was set down
	EventMTU                   // MTU has a new value
)
