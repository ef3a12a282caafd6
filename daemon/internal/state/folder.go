package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
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

// checkFile refuses a state file that is none, or that others can read: services
// and guests have their keys in it.
func checkFile(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a file: move it away", fileState)
	}
	if why := exposed(info); why != "" {
		return fmt.Errorf("%s: %s", fileState, why)
	}
	return nil
}
