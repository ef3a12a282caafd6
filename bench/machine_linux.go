package main

import (
	"bufio"
	"bytes"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func machineNames() (cpu, system string) {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for lines := bufio.NewScanner(bytes.NewReader(info)); lines.Scan() && cpu == ""; {
		if name, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(name) == "model name" {
			cpu = strings.TrimSpace(value)
		}
	}
	var name unix.Utsname
	unix.Uname(&name)
	return cpu, "Linux " + unix.ByteSliceToString(name.Release[:])
}
