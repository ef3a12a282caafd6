package boltfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// errLocked is what lock returns for a file somebody else has locked.
var errLocked = errors.New("locked")

// MakeDir makes a folder, and those it is in, and puts their names on the disk.
func MakeDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	case err == nil || !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(dir)
	if err := MakeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(parent)
}
