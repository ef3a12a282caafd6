//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package state

import (
	"io/fs"
)

func unguarded(fs.FileInfo) string { return "" }

func exposed(fs.FileInfo) string { return "" }
