package packet

// A Stage looks at every packet that passes, and may rewrite, drop or bounce
// it. It is called once per batch, and neither blocks nor allocates.
//
// Both methods may run at once, and each at once for different lanes; one lane's
// outbound calls never overlap each other, nor do its inbound calls.
type Stage interface {
	Outbound(b *Batch) // device to peers
	Inbound(b *Batch)  // peers to device
}

// A Chain is stages in their outbound order; inbound they run in reverse, so
// that what was translated last on the way out is restored first on the way in.
type Chain []Stage

// Outbound runs every stage in order, with a Sweep after each, so that the next
// sees live packets only.
func (c Chain) Outbound(b *Batch) {
	for _, s := range c {
		s.Outbound(b)
		b.Sweep()
	}
}

// Inbound is Outbound in reverse order.
func (c Chain) Inbound(b *Batch) {
	for i := len(c) - 1; i >= 0; i-- {
		c[i].Inbound(b)
		b.Sweep()
	}
}
