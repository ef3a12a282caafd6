package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
)

// A source is the data that is downloaded.
type source struct {
	what string // for people
	open func() (r io.ReadCloser, size int64, err error)
}

// generated is so many bytes of noise, the same each time.
func generated(size int64) source {
	return source{"generated data", func() (io.ReadCloser, int64, error) {
		return io.NopCloser(io.LimitReader(rand.NewChaCha8([32]byte{}), size)), size, nil
	}}
}

func fromFile(path string) source {
	return source{path, func() (io.ReadCloser, int64, error) {
		info, err := os.Stat(path) // before a pipe would keep Open waiting
		if err != nil {
			return nil, 0, err
		}
		if !info.Mode().IsRegular() {
			return nil, 0, fmt.Errorf("%s is not a regular file", path)
		}
		f, err := os.Open(path)
		return f, info.Size(), err
	}}
}

// ServeHTTP answers every request with the data.
func (s source) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	r, size, err := s.open()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer r.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	io.Copy(w, r) // who asked notices when it ends too early
}

// sum is the SHA-256 of the data before it goes anywhere.
func (s source) sum(ctx context.Context) (sum [sha256.Size]byte, err error) {
	r, size, err := s.open()
	if err != nil {
		return sum, err
	}
	defer r.Close()
	h := sha256.New()
	for done := int64(0); done < size && err == nil; {
		if err = ctx.Err(); err == nil {
			var n int64
			n, err = io.CopyN(h, r, min(size-done, 4<<20))
			done += n
		}
	}
	if err != nil {
		return sum, fmt.Errorf("reading %s: %w", s.what, err)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}
