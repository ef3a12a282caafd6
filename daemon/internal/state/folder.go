package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// makeDir makes a folder, and those it is in, and puts their names on the disk.
func makeDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	case err == nil || !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// checkDir refuses a folder in which others can put files of theirs in the place
// of ours.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return folderError(dir, err)
	}
	if why := unguarded(info); why != "" {
		return fmt.Errorf("data folder %s: %w: %s, or use another folder", dir, fs.ErrPermission, why)
	}
	return nil
}

// errHeld is what lockFile returns for a file somebody else has locked.
var errHeld = errors.New("locked")

// hold locks a folder for this process and says in the lock file who we are, for
// the next one to read. The lock ends when the returned file is closed.
func hold(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, fileLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		defer f.Close()
		if !errors.Is(err, errHeld) {
			return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		held := &HeldError{}
		b, err := io.ReadAll(io.LimitReader(f, 4096))
		if err != nil || json.Unmarshal(b, held) != nil {
			held = &HeldError{}
		}
		held.Path = dir
		return nil, held
	}
	b, err := json.Marshal(HeldError{PID: os.Getpid(), Program: filepath.Base(os.Args[0]), Since: time.Now()})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// It only informs: a full disk shall not keep us from what is in the folder.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(b, 0)
	}
	return f, nil
}
