//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package ipam

import (
	"errors"
	"os"
)

// lockFile is not to be had: a file could be opened twice.
func lockFile(*os.File) error { return errors.ErrUnsupported }

func syncDir(string) error { return errors.ErrUnsupported }
