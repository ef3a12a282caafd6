//go:build !linux

package udp

// sendsLargest: some systems limit what is sent, macOS to 9,216 bytes by default.
const sendsLargest = false

func disableOffload(transport) {}
