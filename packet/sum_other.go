//go:build !amd64

package packet

const vector = false

func sumVector(b []byte) uint64 { return sumWords(b, 0) }
