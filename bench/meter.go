package main

import (
	"runtime"
	"time"
)

// A sample is one run of one side of a scenario.
type sample struct {
	Values []float64 // of the scenario's metrics
	// What it cost; nil where it is not known or has no meaning.
	CPUPerGB    *float64 // seconds
	AllocsPerMB *float64
	PeakRSS     *float64 // MB
}

// A meter measures what this process spends.
type meter struct {
	cpu    time.Duration
	allocs uint64
	bytes  int64
	known  bool // the system tells of CPU time
}

// measure runs f, which returns what it measured and how many bytes it moved.
func (m *meter) measure(f func() ([]float64, int64, error)) ([]float64, error) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	u, err := currentUsage()
	m.known = err == nil
	values, bytes, err := f()
	if err != nil {
		return nil, err
	}
	if v, err := currentUsage(); err == nil {
		m.cpu += v.cpu - u.cpu
	}
	runtime.ReadMemStats(&after)
	m.allocs += after.Mallocs - before.Mallocs
	m.bytes += bytes
	return values, nil
}

// sample is values with what measuring them cost.
func (m *meter) sample(values []float64) sample {
	s := sample{Values: values}
	if m.bytes > 0 {
		s.AllocsPerMB = new(float64(m.allocs) / (float64(m.bytes) / 1e6))
		if m.known {
			s.CPUPerGB = new(m.cpu.Seconds() / (float64(m.bytes) / 1e9))
		}
	}
	if u, err := currentUsage(); err == nil && u.peak > 0 {
		s.PeakRSS = new(megabytes(u.peak))
	}
	return s
}

// usage is what this process has used of the system.
type usage struct {
	cpu  time.Duration // of all its threads, in the kernel too
	rss  uint64        // bytes of memory it has now
	peak uint64        // and had at most
}

func megabytes(bytes uint64) float64 { return float64(bytes) / 1e6 }
