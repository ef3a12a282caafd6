package state

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

// lockFile takes the lock of an open file, or returns errHeld. What is locked is a
// byte far behind the content, which others may go on reading.
func lockFile(f *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{OffsetHigh: 1})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return errHeld
	}
	return err
}

// syncDir does nothing: NTFS journals names itself.
func syncDir(string) error { return nil }

// unguarded is always "": who may write to a folder is in its access control list,
// which it has from the folder it lies in.
func unguarded(fs.FileInfo) string { return "" }

// exposed is always "", as unguarded is.
func exposed(fs.FileInfo) string { return "" }
