//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package state

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

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
		return fmt.Sprintf("it belongs to user %d, and this is user %d: run as that user, chown it", st.Uid, uid)
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
