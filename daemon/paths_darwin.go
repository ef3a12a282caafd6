package daemon

import (
	"fmt"
	"os"
	"path/filepath"
)

// platform is what the daemon says it runs on.
const platform = "darwin"

func defaultDataDir() (string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("there is no default: give one with --data-dir: %w", err)
	}
	return filepath.Join(home, ".overlayd"), nil
}
