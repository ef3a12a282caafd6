package main

import "golang.org/x/sys/unix"

func machineNames() (cpu, system string) {
	cpu, _ = unix.Sysctl("machdep.cpu.brand_string")
	release, _ := unix.Sysctl("kern.osrelease")
	return cpu, "Darwin " + release
}
