package report

import (
	"encoding/json"
	"fmt"
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

// ParseRows reads what JSON wrote.
func ParseRows(data []byte) ([]Row, error) {
	var objects []struct {
		Row
		What    string `json:"what"`
		Skipped string `json:"skipped"`
		Failed  string `json:"failed"`
	}
	if err := json.Unmarshal(data, &objects); err != nil {
		return nil, fmt.Errorf("report: rows: %w", err)
	}
	rows := make([]Row, len(objects))
	for i, o := range objects {
		rows[i] = o.Row
		rows[i].What, rows[i].Skipped, rows[i].Failed = o.What, o.Skipped, o.Failed
	}
	return rows, nil
}
