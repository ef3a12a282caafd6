// Package client drives an overlayd daemon over its socket.
//
//	c, err := client.Dial(ctx, client.Config{})
//	defer c.Close()
//	at, err := c.AttachContainer(ctx, wire.AttachContainer{
//		Handle:  wire.LinuxPID{PID: pid},
//		Service: "web",
//	})
//
// There is a method for each operation of the contract, which package wire
// describes. A Client is for many goroutines at once. Their requests share one
// connection: side by side if the daemon offers that, else one after the other.
//
// # Contexts
//
// A context bounds the caller's wait, not the daemon's work: what was asked may
// still be done after the call has returned. The connection stays usable; the
// late answer is dropped by its id. If the daemon takes one request at a time,
// the next one waits until it is through with the one given up.
//
// # Connections
//
// A connection that is lost is made anew by the next call that needs one. A call
// whose request had not been sent goes out on the new one, and so does one that
// only asks, such as Status. For any other the outcome is not known: it returns
// [ErrLost], and is for the caller to repeat. [Config.Restarted] tells whether the
// daemon behind the new connection is another one than before.
//
// # Errors
//
// What the daemon refuses is an [*Error], which matches the sentinel of its code:
// errors.Is(err, client.ErrNotFound). A daemon without codes gives errors that
// match none. Without a daemon the error matches [ErrUnreachable], and after
// Close net.ErrClosed.
//
// # Daemons without extensions
//
// A daemon that knows only the contract's own nineteen operations works, whether
// it answers the greeting with an error or hangs up on it. The others are then
// refused here, with [ErrUnknownOp].
package client
