package daemon

import (
	"cmp"
	"os"
	"path/filepath"
)

// platform is what the daemon says it runs on.
const platform = "windows"

func defaultDataDir() (string, error) {
	return filepath.Join(cmp.Or(os.Getenv("ProgramData"), `C:\ProgramData`), "overlayd"), nil
}
