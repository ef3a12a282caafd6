//go:build !linux && !darwin

package main

import "runtime"

func machineNames() (cpu, system string) { return "", runtime.GOOS }
