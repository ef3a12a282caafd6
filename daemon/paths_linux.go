package daemon

import (
	"errors"
	"os"
	"path/filepath"
)

// platform is what the daemon says it runs on.
const platform = "linux"

func defaultDataDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/overlayd", nil
	}
	// A relative path there is to be ignored (XDG Base Directory Specification 0.8).
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "overlayd"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", errors.New("neither XDG_STATE_HOME nor HOME is set, so there is no default: give one with --data-dir")
	}
	return filepath.Join(home, ".local", "state", "overlayd"), nil
}
