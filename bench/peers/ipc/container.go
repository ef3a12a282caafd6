package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// A container is a process in a network namespace of its own.
type container struct{ *exec.Cmd }

func (c *container) pid() uint32 { return uint32(c.Process.Pid) }

// containers are some that live until close, and no longer than this process.
type containers struct {
	all  []*container
	life *os.File // what they read from, until its end
}

func newContainers(n int) (cs *containers, err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()
	cs = &containers{life: write}
	for range n {
		c := &container{exec.Command("cat")}
		c.Stdin = read
		c.SysProcAttr = ownNamespace
		if err := c.Start(); err != nil {
			return nil, errors.Join(err, cs.close())
		}
		cs.all = append(cs.all, c)
	}
	return cs, nil
}

func (cs *containers) close() error {
	errs := []error{cs.life.Close()}
	for _, c := range cs.all {
		errs = append(errs, c.Wait())
	}
	return errors.Join(errs...)
}

// A network is what containers are put on: ours or theirs.
type network interface {
	add(context.Context, *container) error
	del(context.Context, *container) error
}

// works reports whether a container that was added has a default route by eth0.
func (c *container) works() error {
	path := fmt.Sprintf("/proc/%d/net/route", c.pid())
	table, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) > 2 && f[0] == "eth0" && f[1] == "00000000" && f[2] != "00000000" {
			return nil
		}
	}
	return fmt.Errorf("%s has no default route by eth0:\n%s", path, table)
}

// together does something to all the containers, of width at once, and returns how
// long that took.
func (cs *containers) together(width int, do func(*container) error) (time.Duration, error) {
	begin := time.Now()
	next := make(chan *container)
	done := make(chan error)
	for range width {
		go func() {
			var errs error
			for c := range next {
				errs = errors.Join(errs, do(c))
			}
			done <- errs
		}()
	}
	for _, c := range cs.all {
		next <- c
	}
	close(next)
	var errs error
	for range width {
		errs = errors.Join(errs, <-done)
	}
	return time.Since(begin), errs
}

// milliseconds is the percentile p of durations that are sorted.
func milliseconds(sorted []time.Duration, p int) float64 {
	return sorted[len(sorted)*p/100].Seconds() * 1e3
}
