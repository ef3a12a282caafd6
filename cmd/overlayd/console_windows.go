package main

import (
	"os"

	"golang.org/x/sys/windows"
)

// understandsEscapes makes a console take escape sequences, which it does from
// Windows 10 1511 on, but only when told to.
func understandsEscapes(f *os.File) bool {
	var mode uint32
	h := windows.Handle(f.Fd())
	if err := windows.GetConsoleMode(h, &mode); err != nil {
		return false
	}
	return windows.SetConsoleMode(h, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) == nil
}
