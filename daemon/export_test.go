package daemon

// SetFailpoint has f called around every step that changes something outside the
// process. It is for before a daemon is made.
func SetFailpoint(f func(point string)) { failpoint = f }
