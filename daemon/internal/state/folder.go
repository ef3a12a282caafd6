package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/overlayd/overlayd/internal/boltfile"
)

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

// hold locks a folder for this process and says in the lock file who we are, for
// the next one to read. The lock ends when the returned file is closed.
func hold(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, fileLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := boltfile.Lock(f); err != nil {
		defer f.Close()
		if !errors.Is(err, boltfile.ErrLocked) {
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
