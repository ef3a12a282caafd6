package main

import "syscall"

// ownNamespace gives a process a network namespace of its own.
var ownNamespace = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
