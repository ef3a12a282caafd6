//go:build !linux

package udp

func disableOffload(transport) {}
