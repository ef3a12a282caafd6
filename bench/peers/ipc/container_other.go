//go:build !linux

package main

import "syscall"

// ownNamespace is nothing here: there are no namespaces, and nothing is measured.
var ownNamespace *syscall.SysProcAttr
