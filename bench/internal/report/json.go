package report

import (
	"encoding/json"
	"io"
)

// JSON writes an array of one object for each row. A row that was skipped says
// why under "skipped", one that failed under "failed", and has no figures.
func (r *Report) JSON(w io.Writer) error {
	objects := make([]any, len(r.Rows))
	for i, row := range r.Rows {
		if row.Measured() {
			objects[i] = row
			continue
		}
		objects[i] = struct {
			Scenario string `json:"scenario"`
			Peer     string `json:"peer"`
			Skipped  string `json:"skipped,omitempty"`
			Failed   string `json:"failed,omitempty"`
		}{row.Scenario, row.Peer, row.Skipped, row.Failed}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(objects)
}
