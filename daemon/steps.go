package daemon

import "fmt"

// failpoint is called around each step that changes something outside the
// process, with "name:before" and "name:after"; tests end the process in it.
var failpoint = func(point string) {}

// steps is work that is done whole or not at all.
type steps struct{ undo []func() error }

// do takes a step, which on an error leaves nothing behind. back undoes it, and may
// be nil.
func (s *steps) do(name string, do, back func() error) error {
	failpoint(name + ":before")
	if err := do(); err != nil {
		return err
	}
	failpoint(name + ":after")
	if back != nil {
		s.undo = append(s.undo, back)
	}
	return nil
}

// rollback undoes the steps taken, last first, and adds what goes wrong to err.
func (s *steps) rollback(err error) error {
	for i := len(s.undo) - 1; i >= 0; i-- {
		if e := s.undo[i](); e != nil {
			err = fmt.Errorf("%w; and it could not be undone: %w", err, e)
		}
	}
	s.undo = nil
	return err
}
