package main

import (
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
)

// A source is the data that is downloaded.
type source struct {
	what string // what it is, for people
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
		f, err := os.Open(path)
		if err != nil {
			return nil, 0, err
		}
		info, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, 0, err
		}
		return f, info.Size(), nil
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
	io.Copy(w, r) // whoever asked sees a download that ends too early
}

// sum is the SHA-256 of the data, as it is before it is sent.
func (s source) sum(ctx context.Context) (sum [sha256.Size]byte, err error) {
	r, size, err := s.open()
	if err != nil {
		return sum, err
	}
	defer r.Close()
	h := sha256.New()
	_, err = io.CopyN(h, readerFunc(func(b []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return r.Read(b)
	}), size)
	return [sha256.Size]byte(h.Sum(nil)), err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
