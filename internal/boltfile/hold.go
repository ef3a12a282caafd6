package boltfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// A HeldError says that a file is in use, and by whom.
type HeldError struct {
	Path    string    `json:"-"`
	PID     int       `json:"pid"` // 0: not known
	Program string    `json:"program"`
	Since   time.Time `json:"since"`
}

func (e *HeldError) Error() string { return e.Path + " is in use by another process" }

// Hold locks a file for this process, which it makes if need be, and writes into it
// who we are, for the next one to read. The lock ends when the returned file is
// closed. A file somebody else has is a *HeldError.
func Hold(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		defer f.Close()
		if !errors.Is(err, errLocked) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		held := &HeldError{}
		b, err := io.ReadAll(io.LimitReader(f, 4096))
		if err != nil || json.Unmarshal(b, held) != nil {
			held = &HeldError{}
		}
		held.Path = path
		return nil, held
	}
	b, err := json.Marshal(HeldError{PID: os.Getpid(), Program: filepath.Base(os.Args[0]), Since: time.Now()})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// It only informs: a full disk shall not keep us from what is in the file.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(b, 0)
	}
	return f, nil
}
