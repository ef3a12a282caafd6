package report

import (
	_ "embed"
	"html/template"
	"io"
)

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"bars":     func(r Row) barChart { return newBarChart(&r) },
	"costs":    func(r Row) []string { return r.costs() },
	"fate":     func(r Row) string { return r.fate() },
	"measured": func(r Row) bool { return r.Measured() },
	"figures":  func(r Row) []Figure { return r.Figures() },
	"spread":   spread,
	"ratio": func(s *Spread) string {
		if s == nil {
			return none
		}
		return times(s) + " [" + number(s.Min) + " to " + number(s.Max) + "]"
	},
	"percent": percent,
	"both":    both,
}).Parse(page))

// HTML writes one page that needs nothing else: the charts are in it.
func (r *Report) HTML(w io.Writer) error {
	return pageTemplate.Execute(w, struct {
		*Report
		Ratios *ratioChart
		How    string
	}{r, newRatioChart(r.Rows), r.how()})
}
