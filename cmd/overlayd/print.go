package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/overlayd/overlayd/daemon/wire"
)

// terminal is the file of a writer that is a terminal which understands escape
// sequences.
func terminal(w io.Writer) (*os.File, bool) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return nil, false
	}
	return f, understandsEscapes(f)
}

// printJSON prints a value of the contract: on one line for programs, indented for
// those who look at it.
func (a *app) printJSON(v any) error {
	data, err := wire.Marshal(v)
	if err != nil {
		return err
	}
	return a.printRawJSON(data)
}

func (a *app) printRawJSON(data []byte) error {
	var b bytes.Buffer
	if _, ok := terminal(a.out); ok {
		if err := json.Indent(&b, data, "", "  "); err != nil {
			return err
		}
	} else {
		b.Write(data)
	}
	b.WriteByte('\n')
	_, err := a.out.Write(b.Bytes())
	return err
}

// printed is a result for whoever asked for it.
func printed[R wire.Response](a *app, res R, show func(p *page, res R)) error {
	if a.json {
		return a.printJSON(res)
	}
	p := a.page()
	show(p, res)
	_, err := io.WriteString(a.out, p.String())
	return err
}

// A tone is how text looks where there are colours.
type tone string

const (
	plain tone = ""
	bold  tone = "\x1b[1m"
	faint tone = "\x1b[2m"
	good  tone = "\x1b[32m"
	bad   tone = "\x1b[31m"
	warn  tone = "\x1b[33m"
)

// A page is text for people in the making.
type page struct {
	strings.Builder
	colours bool
	app     *app
}

// page is an empty one for the output there is. See https://no-color.org.
func (a *app) page() *page {
	_, ok := terminal(a.out)
	return &page{colours: ok && os.Getenv("NO_COLOR") == "", app: a}
}

// tint is text, clean, in a tone.
func (p *page) tint(t tone, text string) string {
	text = clean(text)
	if !p.colours || t == plain || text == "" {
		return text
	}
	return string(t) + text + "\x1b[0m"
}

// printf appends text that is known to be clean.
func (p *page) printf(format string, args ...any) { fmt.Fprintf(p, format, args...) }

// clean makes text that came from elsewhere fit for a terminal and a line: what
// could control the one or end the other is escaped.
func clean(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "\\u%04x", r)
		}
	}
	return b.String()
}
