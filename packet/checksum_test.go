package packet

import "testing"

func BenchmarkSum1400(b *testing.B) {
	d := fill(1400, 1)
	b.SetBytes(1400)
	for b.Loop() {
		Sum(d, 0)
	}
}

func BenchmarkSum20(b *testing.B) {
	d := fill(20, 1)
	b.SetBytes(20)
	for b.Loop() {
		Sum(d, 0)
	}
}
