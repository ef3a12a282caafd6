//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// lockFile takes the lock of an open file, or returns errHeld.
func lockFile(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			return errHeld
		}
		return err
	}
}

// syncDir puts the names in a folder on the disk.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// unguarded says what to do about a folder that others can write to; "": nothing. The
// group of this process is not others: with umask 002, as some systems have it,
// that is a group of one.
func unguarded(dir fs.FileInfo) string {
	st, ok := dir.Sys().(*syscall.Stat_t)
	uid, mode := os.Geteuid(), dir.Mode().Perm()
	switch {
	case !ok:
		return ""
	case int(st.Uid) != uid:
		return fmt.Sprintf("it belongs to user %d, and this is user %d: chown it", st.Uid, uid)
	case mode&0o002 != 0 || mode&0o020 != 0 && int(st.Gid) != os.Getegid():
		return fmt.Sprintf("others can write to it (mode %#o): chmod it to 0700", mode)
	}
	return ""
}

// exposed says what to do about a file with a secret that others can read; "":
// nothing.
func exposed(file fs.FileInfo) string {
	st, ok := file.Sys().(*syscall.Stat_t)
	uid, mode := os.Geteuid(), file.Mode().Perm()
	switch {
	case !ok:
		return ""
	case int(st.Uid) != uid:
		return fmt.Sprintf("it belongs to user %d, and this is user %d: chown it", st.Uid, uid)
	case mode&0o077 != 0:
		return fmt.Sprintf("others can read or change it (mode %#o): chmod it to 0600", mode)
	}
	return ""
}
