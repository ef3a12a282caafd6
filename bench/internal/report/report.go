// Package report shows what was measured: as text, JSON, Markdown and HTML.
package report

// A Report is one run of the bench.
type Report struct {
	Machine Machine
	Quick   bool // few pairs of short runs
	Rows    []Row
}

// A Machine is where it was measured.
type Machine struct {
	CPU    string // model, as the system names it
	Cores  int    // logical ones that the program may use
	System string // operating system, kernel and architecture
	Go     string // version
}

// A Row is one scenario, measured for us and for one peer. Its JSON is an object
// with always the same names; what does not exist for a scenario is null.
type Row struct {
	Scenario string `json:"scenario"`
	What     string `json:"what"`
	Peer     string `json:"peer"` // empty: none
	Figure
	Pairs int `json:"pairs"`

	// LimitFraction is how much of the limit that the cipher sets ours reaches: the
	// median of the pairs.
	LimitFraction *float64 `json:"limit_fraction"`

	OursAllocsPerMB   *float64 `json:"ours_allocs_per_mb"`
	TheirsAllocsPerMB *float64 `json:"theirs_allocs_per_mb"`
	OursCPUPerGB      *float64 `json:"ours_cpu_s_per_gb"`
	TheirsCPUPerGB    *float64 `json:"theirs_cpu_s_per_gb"`
	OursPeakRSS       *float64 `json:"ours_peak_rss_mb"`
	TheirsPeakRSS     *float64 `json:"theirs_peak_rss_mb"`

	// More are further figures of the same runs.
	More []Figure `json:"more"`

	Skipped string `json:"-"` // why it could not run here
	Failed  string `json:"-"` // what went wrong
}

// A Figure is one thing measured.
type Figure struct {
	Metric string  `json:"metric"`
	Unit   string  `json:"unit"`
	Better string  `json:"better"` // Higher or Lower
	Ours   *Spread `json:"ours"`
	Theirs *Spread `json:"theirs"` // nil: there is no peer
	Ratio  *Spread `json:"ratio"`  // above 1 is in our favour
}

// Figures are all of a row's, its own first.
func (r *Row) Figures() []Figure { return append([]Figure{r.Figure}, r.More...) }

// Measured reports whether the row has figures.
func (r *Row) Measured() bool { return r.Skipped == "" && r.Failed == "" }
