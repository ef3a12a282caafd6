package main

import (
	"cmp"
	"runtime"

	"github.com/overlayd/overlayd/bench/internal/report"
)

func thisMachine() report.Machine {
	cpu, system := machineNames()
	return report.Machine{
		CPU:    cmp.Or(cpu, "an unnamed CPU"),
		Cores:  runtime.GOMAXPROCS(0),
		System: system + " " + runtime.GOARCH,
		Go:     runtime.Version(),
	}
}
