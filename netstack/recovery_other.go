//go:build !windows

package netstack

const defaultLossDetection = "rack"
