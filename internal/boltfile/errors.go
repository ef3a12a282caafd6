package boltfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A SchemaError says that a file was written by a later version. It was not
// touched.
type SchemaError struct {
	Path        string
	Have, Known uint32
}

func (e *SchemaError) Error() string {
	return fmt.Sprintf("%s has schema %d, and only %d is known", e.Path, e.Have, e.Known)
}

// A DamagedError says that a file is not whole, and where it was put.
type DamagedError struct {
	Path  string
	Aside string // where it is now
	Err   error  // what is wrong with it
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s is damaged (%v): it was set aside as %s", e.Path, e.Err, e.Aside)
}

// Unwrap is Err.
func (e *DamagedError) Unwrap() error { return e.Err }

// setAside moves a damaged file out of the way. Other errors it returns as they
// are.
func setAside(path string, err error) error {
	if _, ok := errors.AsType[damage](err); !ok {
		return err
	}
	base := path + ".damaged-" + time.Now().UTC().Format("20060102T150405Z")
	aside := base
	for n := 2; ; n++ {
		if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
			break
		}
		aside = fmt.Sprintf("%s-%d", base, n)
	}
	name := filepath.Base(path)
	if e := os.Rename(path, aside); e != nil {
		return fmt.Errorf("%s is damaged (%w) and cannot be set aside: %w", name, err, e)
	}
	if e := SyncDir(filepath.Dir(path)); e != nil {
		return fmt.Errorf("%s is damaged (%w) and was set aside as %s, but: %w", name, err, aside, e)
	}
	return &DamagedError{Path: path, Aside: aside, Err: err}
}

// wrapErrno makes the error numbers in a message ones that errors.Is finds: bbolt
// does not wrap what the growing of its file failed with.
func wrapErrno(err error) error {
	for _, no := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EIO} {
		if err != nil && !errors.Is(err, no) && strings.HasSuffix(err.Error(), no.Error()) {
			return fmt.Errorf("%s%w", strings.TrimSuffix(err.Error(), no.Error()), no)
		}
	}
	return err
}
