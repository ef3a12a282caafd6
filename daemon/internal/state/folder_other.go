//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package state

import (
	"errors"
	"io/fs"
	"os"
)

// lockFile is not to be had: a folder could be opened twice.
func lockFile(*os.File) error { return errors.ErrUnsupported }

func syncDir(string) error { return errors.ErrUnsupported }

func unguarded(fs.FileInfo) string { return "" }

func exposed(fs.FileInfo) string { return "" }
