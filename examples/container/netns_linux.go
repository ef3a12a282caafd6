package main

import (
	"os/exec"
	"syscall"
)

// isolate gives a command a network namespace of its own, and has it end when the
// thread that starts it does.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
}
