//go:build !linux && !darwin

package main

import "errors"

func currentUsage() (usage, error) { return usage{}, errors.ErrUnsupported }
