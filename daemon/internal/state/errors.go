package state

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/boltfile"
)

// A HeldError says that a data folder is in use already, and by whom.
type HeldError struct {
	Path    string // the folder
	PID     int    // 0: not known
	Program string
	Since   time.Time
}

func (e *HeldError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("data folder %s is in use by another process: stop it, or use another folder", e.Path)
	}
	return fmt.Sprintf("data folder %s is in use by %s, process %d, since %s: stop it, or use another folder",
		e.Path, e.Program, e.PID, e.Since.Format(time.RFC3339))
}

// Unwrap is wire.Conflict.
func (e *HeldError) Unwrap() error { return wire.Conflict }

// A SchemaError says that a state file was written by a later version of the
// daemon. It was not touched.
type SchemaError struct {
	Path        string // the file
	Have, Known uint32
}

func (e *SchemaError) Error() string {
	return fmt.Sprintf("%s has schema %d, and this version knows only up to %d: use the later version again, or another data folder", e.Path, e.Have, e.Known)
}

// A DamagedError says that a state file is not whole, and where it was put. The
// next Open makes a new one.
type DamagedError struct {
	Path  string // the file
	Aside string // where it is now
	Err   error  // what is wrong with it
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s is damaged (%v): it was set aside as %s, and the next start begins with an empty one", e.Path, e.Err, e.Aside)
}

// Unwrap is Err.
func (e *DamagedError) Unwrap() error { return e.Err }

// folderError is an error about a data folder, with what to do about it.
func folderError(dir string, err error) error {
	switch e := err.(type) {
	case *boltfile.HeldError:
		return &HeldError{Path: dir, PID: e.PID, Program: e.Program, Since: e.Since}
	case *boltfile.SchemaError:
		return (*SchemaError)(e)
	case *boltfile.DamagedError:
		return (*DamagedError)(e)
	}
	for _, a := range advice {
		if errors.Is(err, a.err) {
			return fmt.Errorf("data folder %s: %w: %s", dir, err, a.do)
		}
	}
	return fmt.Errorf("data folder %s: %w", dir, err)
}

var advice = []struct {
	err error
	do  string
}{
	{syscall.ENOSPC, "make room on its disk"},
	{syscall.EDQUOT, "make room within the quota"},
	{syscall.EROFS, "mount it writable, or use another folder"},
	{syscall.ENOTDIR, "it, or what it lies in, is a file: move that away, or use another folder"},
	{fs.ErrPermission, "run as the user it belongs to, or use another folder"},
}
