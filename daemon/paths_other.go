//go:build !linux && !darwin && !windows

package daemon

import (
	"errors"
	"fmt"
)

// platform is what the daemon says it runs on.
const platform = "other"

func defaultDataDir() (string, error) {
	return "", fmt.Errorf("there is no default: give one with --data-dir: %w", errors.ErrUnsupported)
}
