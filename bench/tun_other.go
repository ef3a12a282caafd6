//go:build !linux

package main

import (
	"context"
	"errors"
	"time"
)

func checkTUN() error { return errors.New("needs the network namespaces of Linux") }

func overTUN(string) func(context.Context, side, *meter, time.Duration) ([]float64, error) {
	return func(context.Context, side, *meter, time.Duration) ([]float64, error) {
		return nil, errors.ErrUnsupported
	}
}
