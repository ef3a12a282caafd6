package main

import (
	"fmt"
	"io"
	"os"
)

// A progress says what runs at the moment: on a terminal in one line that is
// gone in the end, elsewhere in a line for each run.
type progress struct {
	w        io.Writer
	terminal bool
	total    int // runs
	done     int
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

const clearLine = "\r\x1b[K"

// begin says that a run begins.
func (p *progress) begin(scenario string, pair, pairs int, who string) {
	p.say(fmt.Sprintf("%s, pair %d of %d: %s", scenario, pair, pairs, who))
}

func (p *progress) say(what string) {
	text := fmt.Sprintf("[%d/%d] %s", p.done+1, p.total, what)
	if p.terminal {
		fmt.Fprint(p.w, clearLine+text)
	} else {
		fmt.Fprintln(p.w, text)
	}
}

// end says that the run has ended.
func (p *progress) end() {
	p.done++
	if p.terminal {
		fmt.Fprint(p.w, clearLine)
	}
}
