package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/overlayd/overlayd/internal/boltfile"
	"github.com/overlayd/overlayd/overlay"
)

// NodeKey is the node's private key. It is made at the first call there ever is,
// and kept in the file node.key as wg genkey prints it. One that is damaged, or
// that others could read, is an error, and is never replaced: peers know the node
// by it.
func (s *Store) NodeKey() (overlay.PrivateKey, error) {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return overlay.PrivateKey{}, s.errClosed()
	}
	s.keyMu.Lock()
	defer s.keyMu.Unlock()
	if !s.key.IsZero() {
		return s.key, nil
	}
	path := filepath.Join(s.dir, fileKey)
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = makeKey(path)
	}
	if err != nil {
		return overlay.PrivateKey{}, folderError(s.dir, fmt.Errorf("%s: %w", fileKey, err))
	}
	s.key = key
	return key, nil
}

// HasNodeKey reports whether there is a key, or something in its place, so that
// NodeKey will not make one.
func (s *Store) HasNodeKey() bool {
	_, err := os.Lstat(filepath.Join(s.dir, fileKey))
	return !errors.Is(err, fs.ErrNotExist)
}

// readKey reads a key from a file.
func readKey(path string) (key overlay.PrivateKey, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, dangling := os.Lstat(path); dangling == nil {
			return key, errors.New("it is a link to where nothing is: put the key there")
		}
	}
	if err != nil {
		return key, err
	}
	if !info.Mode().IsRegular() {
		return key, errors.New("it is not a file: move it away")
	}
	f, err := os.Open(path)
	if err != nil {
		return key, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return key, err
	}
	if why := exposed(info); why != "" {
		return key, errors.New(why + ", or remove it for a new key if they may have")
	}
	const most = 256 // a key has 44
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return key, err
	}
	key, err = overlay.ParsePrivateKey(strings.TrimRight(string(text), "\r\n"))
	if err == nil && key.IsZero() {
		err = errors.New("all of it is zero")
	}
	if err != nil {
		return key, fmt.Errorf("it is damaged: %w: restore it, or remove it for a new key, which peers then have to be told", err)
	}
	return key, nil
}

// makeKey makes a key and the file it is in, which gets its name when it is whole
// and on the disk.
func makeKey(path string) (key overlay.PrivateKey, err error) {
	unfinished := path + ".new"
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return key, err // of a start that was killed here, and of use to nobody
	}
	if key, err = overlay.GeneratePrivateKey(); err != nil {
		return key, err
	}
	text, err := key.MarshalText()
	if err != nil {
		return key, err
	}
	f, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return key, err
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		// Nobody else is in the folder, so there is still none under this name.
		err = os.Rename(unfinished, path)
	}
	if err != nil {
		os.Remove(unfinished)
		return key, err
	}
	return key, boltfile.SyncDir(filepath.Dir(path))
}
