package main

import (
	"time"

	"golang.org/x/sys/unix"
)

func currentUsage() (usage, error) {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return usage{}, err
	}
	peak := uint64(r.Maxrss) // bytes, unlike Linux's
	return usage{cpu: time.Duration(r.Utime.Nano() + r.Stime.Nano()), rss: peak, peak: peak}, nil
}
