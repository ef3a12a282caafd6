package hostnet

// SetWatchBuffer has link watches that begin from now on lose messages earlier, and
// returns what undoes it.
func SetWatchBuffer(bytes int) (undo func()) {
	was := watchBuffer
	watchBuffer = bytes
	return func() { watchBuffer = was }
}

// Do is do.
func (n *Namespace) Do(f func() error) error { return n.do(f) }

// LookElsewhere has h look links up in the namespace of another handle from now on; it
// makes and removes them where it did. So it finds none that it has made.
func (h *Handle) LookElsewhere(other *Handle) {
	h.netlink.Close()
	h.netlink = other.netlink
}
