package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func currentUsage() (usage, error) {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return usage{}, err
	}
	u := usage{cpu: time.Duration(r.Utime.Nano() + r.Stime.Nano())}
	// Not r.Maxrss, which a process inherits from the one that started it.
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return usage{}, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(status)); lines.Scan(); {
		var kB uint64
		if _, err := fmt.Sscanf(lines.Text(), "VmHWM: %d kB", &kB); err == nil {
			u.peak = kB << 10
		}
		if _, err := fmt.Sscanf(lines.Text(), "VmRSS: %d kB", &kB); err == nil {
			u.rss = kB << 10
		}
	}
	return u, nil
}
