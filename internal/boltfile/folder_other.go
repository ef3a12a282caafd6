//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package boltfile

import (
	"errors"
	"os"
)

// lock is not to be had: a file could be opened twice.
func lock(*os.File) error { return errors.ErrUnsupported }

// SyncDir is not to be had.
func SyncDir(string) error { return errors.ErrUnsupported }
