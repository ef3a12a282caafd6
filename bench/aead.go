package main

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// aead measures the cipher on every core at once. Whatever goes through a tunnel
// whose both ends are on this machine is sealed and opened once, hence the first
// value.
func aead(_ context.Context, _ side, m *meter, d time.Duration) ([]float64, error) {
	var seal, open float64
	return m.measure(func() ([]float64, int64, error) {
		var err error
		if seal, err = onEveryCore(d/2, newSealer); err != nil {
			return nil, 0, err
		}
		if open, err = onEveryCore(d/2, newOpener); err != nil {
			return nil, 0, err
		}
		both := 1 / (1/seal + 1/open)
		return []float64{both * 8 / 1e9, seal / 1e9, open / 1e9}, 0, nil
	})
}

// onEveryCore has each core work on packets of mtu bytes for a time d, and
// returns the bytes per second.
func onEveryCore(d time.Duration, newWork func() (func() error, error)) (float64, error) {
	const atOnce = 64 // between looks at the clock
	var (
		running sync.WaitGroup
		packets atomic.Int64
		failed  atomic.Pointer[error]
	)
	start := time.Now()
	for range runtime.GOMAXPROCS(0) {
		work, err := newWork()
		if err != nil {
			return 0, err
		}
		running.Go(func() {
			n := int64(0)
			for ; time.Since(start) < d; n += atOnce {
				for range atOnce {
					if err := work(); err != nil {
						failed.Store(&err)
						return
					}
				}
			}
			packets.Add(n)
		})
	}
	running.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(packets.Load()*mtu) / time.Since(start).Seconds(), nil
}

// newSealer seals a packet from one buffer into another.
func newSealer() (func() error, error) {
	c, err := chacha20poly1305.New(make([]byte, chacha20poly1305.KeySize))
	if err != nil {
		return nil, err
	}
	var nonce [chacha20poly1305.NonceSize]byte
	plain, sealed := make([]byte, mtu), make([]byte, 0, mtu+chacha20poly1305.Overhead)
	return func() error {
		c.Seal(sealed, nonce[:], plain, nil)
		return nil
	}, nil
}

// newOpener opens a packet over and over.
func newOpener() (func() error, error) {
	c, err := chacha20poly1305.New(make([]byte, chacha20poly1305.KeySize))
	if err != nil {
		return nil, err
	}
	var nonce [chacha20poly1305.NonceSize]byte
	sealed := c.Seal(nil, nonce[:], make([]byte, mtu), nil)
	plain := make([]byte, 0, mtu)
	return func() error {
		_, err := c.Open(plain, nonce[:], sealed, nil)
		return err
	}, nil
}
