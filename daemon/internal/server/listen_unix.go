//go:build linux || darwin

package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A socket is a listener that removes its file in the end.
type socket struct {
	*net.UnixListener
	path string
	file fs.FileInfo // as it was made
	once sync.Once
	err  error
}

// Close removes the socket file, if it still is this one, and then stops listening:
// so nobody ever finds a stale one.
func (l *socket) Close() error {
	l.once.Do(func() {
		if now, err := os.Lstat(l.path); err == nil && sameFile(l.file, now) {
			l.err = os.Remove(l.path)
		}
		l.err = errors.Join(l.UnixListener.Close(), l.err)
	})
	return l.err
}

// sameFile reports whether two looks at a path found the same file. A new file may
// have the inode of one that was removed, but then is younger.
func sameFile(a, b fs.FileInfo) bool { return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) }

// links is how many names a file has.
func links(file fs.FileInfo) uint64 { return uint64(file.Sys().(*syscall.Stat_t).Nlink) }

func (s *Server) listen(path string) (_ net.Listener, err error) {
	if strings.HasPrefix(path, pipePrefix) {
		return nil, fmt.Errorf("named pipes are Windows's: give the path of a socket: %w", errors.ErrUnsupported)
	}
	if strings.HasPrefix(path, "@") {
		return nil, errors.New("an abstract socket has neither owner nor mode: give a path")
	}
	gid, grouped := s.group()
	dir := filepath.Dir(path)
	if err := makeDir(dir, grouped); err != nil {
		return nil, fmt.Errorf("its folder cannot be made: %w", err)
	}
	unlock, err := s.lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("its folder cannot be locked: %w", err)
	}
	defer unlock()
	if err := clearWay(path); err != nil {
		return nil, err
	}
	ul, err := bindPrivate(path)
	if err != nil {
		return nil, bindError(path, err)
	}
	ul.SetUnlinkOnClose(false) // whatever file is there by then
	l := &socket{UnixListener: ul, path: path}
	if l.file, err = os.Lstat(path); err != nil {
		return nil, errors.Join(err, ul.Close())
	}
	if err := s.share(path, l.file, gid, grouped); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// share gives a new socket its mode, and to the group if there is one. Who may write
// in its folder can have put something else in its place since it was bound, such as a
// link to a file of ours, symbolic or not: then nothing is changed, and nothing that is
// put there later.
func (s *Server) share(path string, made fs.FileInfo, gid uint32, grouped bool) error {
	file, err := openSocketFile(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if now, err := file.Stat(); err != nil {
		return err
	} else if now.Mode().Type() != fs.ModeSocket || !sameFile(made, now) || links(now) != 1 {
		return errors.New("somebody put another file in its place while it was made: give a path in a folder that nobody else may write to")
	}
	if grouped {
		err := file.setGroup(gid) // first: with the mode first it would be another group's
		if err == nil {
			return file.setMode(0o660)
		}
		if !errors.Is(err, fs.ErrPermission) {
			return err
		}
		s.log.Warn("the socket is for this user alone, who cannot give it to the group", "group", s.config.Group, "err", err)
	}
	return file.setMode(0o600) // which the umask may have made less
}

// makeDir makes the folder of a socket, and those it is in, if need be: for all to
// pass if a group shall, else for this user alone.
func makeDir(dir string, grouped bool) error {
	mode := fs.FileMode(0o700)
	if grouped {
		mode = 0o755
	}
	return os.MkdirAll(dir, mode)
}

// bindError says what to do about a socket that cannot be made.
func bindError(path string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("another program is just making it: %w", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("this user may not make it: give a path in a folder of its own: %w", err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("its folder is read-only: give another path: %w", err)
	}
	return err
}

// clearWay removes a socket nobody answers at. Anything else is in the way.
func clearWay(path string) error {
	file, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case file.Mode().Type() != fs.ModeSocket:
		return errors.New("there is something else of that name, which is no socket: move it away, or give another path")
	}
	const patience = 2 * time.Second
	nc, err := net.DialTimeout("unix", path, patience)
	switch {
	case err == nil:
		defer nc.Close() //nolint:errcheck // nothing was said on it
		who := "a daemon"
		if p, err := credentials(nc); err == nil && p.pid != 0 {
			who = fmt.Sprintf("%s (process %d, user %d)", program(p.pid), p.pid, p.uid)
		}
		return taken(who + " answers there already: stop it, or give another path")
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("whether a daemon answers there cannot be told: stop it, or give another path: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("it is stale, but cannot be removed: %w", err)
	}
	return nil
}

// lockDir keeps other daemons from making a socket in a folder, so that two that
// find a stale one do not each remove what the other has made.
//
// Whoever may read the folder can lock it, and in /run that is everybody: the lock
// is waited for, but not for ever, and then done without.
func (s *Server) lockDir(path string) (unlock func(), err error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	const pause, patience = 10 * time.Millisecond, time.Second // another daemon has it for some milliseconds
	for end := time.Now().Add(patience); ; time.Sleep(pause) {
		err = syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { dir.Close() }, nil
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return nil, errors.Join(err, dir.Close())
		case time.Now().After(end):
			s.log.Warn("another program has the socket's folder locked, and overlayd does without the lock", "folder", path)
			return func() { dir.Close() }, nil
		}
	}
}
