//go:build !linux && !windows

package udp

func systemOpener() opener { return openPlain }
