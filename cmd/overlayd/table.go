package main

import (
	"strings"
	"unicode/utf8"
)

// A column of a table.
type column struct {
	title string
	right bool // aligned, as numbers are
}

// A cell is text in a tone.
type cell struct {
	text string
	tone tone
}

// text is a cell as it mostly is.
func text(s string) cell { return cell{s, plain} }

// texts are cells as they mostly are.
func texts(all ...string) []cell {
	cells := make([]cell, len(all))
	for i, s := range all {
		cells[i] = text(s)
	}
	return cells
}

const gap = "  " // between columns

// table appends rows under their columns, each as wide as its widest cell. A
// column in which no row has anything is left out.
func (p *page) table(columns []column, rows [][]cell) {
	width := make([]int, len(columns))
	for i, c := range columns {
		for _, row := range rows {
			if n := utf8.RuneCountInString(clean(row[i].text)); n > 0 {
				width[i] = max(width[i], n, utf8.RuneCountInString(c.title))
			}
		}
	}
	line := func(at func(i int) cell) {
		var b strings.Builder
		for i, c := range columns {
			if width[i] == 0 {
				continue
			}
			if b.Len() > 0 {
				b.WriteString(gap)
			}
			cell := at(i)
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(clean(cell.text)))
			if c.right {
				b.WriteString(pad + p.tint(cell.tone, cell.text))
			} else {
				b.WriteString(p.tint(cell.tone, cell.text) + pad)
			}
		}
		p.WriteString(strings.TrimRight(b.String(), " ") + "\n")
	}
	line(func(i int) cell { return cell{columns[i].title, bold} })
	for _, row := range rows {
		line(func(i int) cell { return row[i] })
	}
}
