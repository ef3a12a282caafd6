package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
)

// every is how often a status that is watched is shown.
const every = time.Second

// interruptible is a context that ends with Ctrl-C or SIGTERM. A second one ends
// the program at once.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// watch shows the status until it is interrupted, which is its proper end. A
// daemon that goes away is waited for.
func (a *app) watch(ctx context.Context) error {
	ctx, stop := interruptible(ctx)
	defer stop()
	c, err := a.dial(ctx, once) // who watches a daemon that is not there has mistyped
	if err != nil {
		return err
	}
	defer func() { c.Close() }()

	s := a.sheet()
	defer s.leave()
	again := time.NewTicker(every)
	defer again.Stop()
	for {
		err := a.watchOnce(ctx, c, s)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// watchOnce shows the status, or why there is none. Its error is that showing it
// failed.
func (a *app) watchOnce(ctx context.Context, c *client.Client, s *sheet) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	status, err := c.Status(ctx)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return nil
	case err != nil:
		return s.trouble(a.told(wire.StatusRequest{}.Op(), err))
	case a.json:
		return a.printJSON(status)
	}
	p := a.page()
	p.status(status)
	return s.show(p.String())
}

// A sheet is where something is shown again and again: the last lines of a
// terminal, or one after the other.
type sheet struct {
	app     *app
	tty     *os.File // nil: no terminal
	lines   int      // that are on the terminal
	shown   int
	silence string // the trouble that was told last
}

func (a *app) sheet() *sheet {
	s := &sheet{app: a}
	if !a.json {
		s.tty, _ = terminal(a.out)
	}
	if s.tty != nil {
		io.WriteString(s.tty, "\x1b[?25l") //nolint:errcheck // what is written next tells
	}
	return s
}

// leave gives the terminal back, with what was shown last.
func (s *sheet) leave() {
	if s.tty != nil {
		io.WriteString(s.tty, "\x1b[?25h") //nolint:errcheck // nobody is left to be told
	}
}

// show shows a text in place of the one before, or after it.
func (s *sheet) show(text string) error {
	s.silence = ""
	s.shown++
	if s.tty == nil {
		text = s.app.now().Format(time.DateTime) + "\n" + text
		if s.shown > 1 {
			text = "\n" + text
		}
		_, err := io.WriteString(s.app.out, text)
		return err
	}
	return s.redraw(text)
}

// trouble says why there is nothing to show: once, where it would stay.
func (s *sheet) trouble(err error) error {
	text := explain(err)
	if s.tty != nil {
		return s.redraw("overlayd: " + text + "\n")
	}
	if s.silence != text {
		s.silence = text
		fmt.Fprintln(s.app.err, "overlayd: "+text)
	}
	return nil
}

// redraw writes over what is there, without a moment of nothing. What is wider or
// longer than the terminal is cut: lines that wrap, or scroll, could not be found
// again.
func (s *sheet) redraw(text string) error {
	width, height, err := term.GetSize(int(s.tty.Fd()))
	if err != nil || width <= 0 || height <= 1 {
		width, height = 80, 24
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	lines = lines[:min(len(lines), height-1)]
	var b strings.Builder
	if s.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.lines)
	}
	for _, line := range lines {
		b.WriteString("\r" + cut(line, width) + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	s.lines = len(lines)
	_, err = io.WriteString(s.tty, b.String())
	return err
}

// cut is a line as wide as it may be. Escape sequences take no room, and the last
// one stays, which ends a tone.
func cut(line string, width int) string {
	var b strings.Builder
	room := width
	for i := 0; i < len(line); {
		if line[i] == '\x1b' {
			end := strings.IndexByte(line[i:], 'm')
			if end < 0 {
				break
			}
			b.WriteString(line[i : i+end+1])
			i += end + 1
			continue
		}
		_, n := utf8.DecodeRuneInString(line[i:])
		if room > 0 {
			b.WriteString(line[i : i+n])
			room--
		}
		i += n
	}
	return b.String()
}
