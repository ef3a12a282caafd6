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
