package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"github.com/overlayd/overlayd/bench/internal/report"
)

// The links of the table, and the settings measured over each. Over the slower
// one, windows fill its queue at every round trip, over the faster one they
// become too small for it.
var (
	tcpRates   = []int64{100e6, 500e6}
	tcpRTTs    = []time.Duration{0, 20 * time.Millisecond, 66 * time.Millisecond, 150 * time.Millisecond}
	tcpLosses  = []float64{0, 0.001, 0.01}
	tcpReorder = []bool{false, true}
	tcpRACK    = []bool{true, false}
	tcpControl = []string{"cubic", "reno"}
)

// A tcpPlan is how often and how long to measure each cell.
type tcpPlan struct {
	runs int
	time time.Duration
}

var (
	fullTCPPlan  = tcpPlan{runs: 3, time: 4 * time.Second}
	quickTCPPlan = tcpPlan{runs: 1, time: 2 * time.Second}
)

// A cell keeps a tenth of a core busy, so some run at once.
const cellsPerCore = 4

// tcpCells are all cells of the table, in its order.
func tcpCells() (cells []cell) {
	for _, rate := range tcpRates {
		for _, rtt := range tcpRTTs {
			for _, loss := range tcpLosses {
				for _, reorder := range tcpReorder {
					for _, rack := range tcpRACK {
						for _, control := range tcpControl {
							cells = append(cells, cell{Rate: rate, RTT: rtt, Loss: loss, Reorder: reorder, RACK: rack, Congestion: control})
						}
					}
				}
			}
		}
	}
	return cells
}

// measureTCP fills the table and prints it.
func measureTCP(ctx context.Context, quick bool, stdout, stderr io.Writer) (*output, error) {
	plan := fullTCPPlan
	if quick {
		plan = quickTCPPlan
	}
	t, err := fillTable(ctx, tcpCells(), plan, newProgress(stderr), func(ctx context.Context, c cell) (r cellResult, err error) {
		err = spawn(ctx, exec.Command, job{Cell: &c}, c.Time, &r)
		return r, err
	})
	if err != nil {
		return nil, err
	}
	return &output{json: t.JSON, markdown: t.Markdown}, t.Text(stdout)
}

// fillTable measures the cells, some of them at once, each as often as the plan
// says and with other chance each time.
func fillTable(ctx context.Context, cells []cell, plan tcpPlan, p *progress, measure func(context.Context, cell) (cellResult, error)) (*report.TCPTable, error) {
	runs := make([]cell, 0, plan.runs*len(cells))
	for seed := range plan.runs {
		for _, c := range cells {
			c.Time, c.Seed = plan.time, uint64(seed)
			runs = append(runs, c)
		}
	}
	results, err := measureAtOnce(ctx, runs, p, measure)
	if err != nil {
		return nil, err
	}
	t := &report.TCPTable{Machine: thisMachine(), How: howTCP(plan)}
	for i, c := range cells {
		var of []cellResult
		for j := i; j < len(results); j += len(cells) {
			of = append(of, results[j])
		}
		t.Cells = append(t.Cells, tcpCell(c, of))
	}
	return t, nil
}

// measureAtOnce measures runs until all are measured or one fails.
func measureAtOnce(ctx context.Context, runs []cell, p *progress, measure func(context.Context, cell) (cellResult, error)) ([]cellResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.total = len(runs)
	var (
		running sync.WaitGroup
		mu      sync.Mutex // for p
	)
	results := make([]cellResult, len(runs))
	next := make(chan int)
	for range cellsPerCore * runtime.GOMAXPROCS(0) {
		running.Go(func() {
			for i := range next {
				var err error
				if results[i], err = measure(ctx, runs[i]); err != nil {
					cancel(fmt.Errorf("%v: %w", &runs[i], err))
					continue
				}
				mu.Lock()
				p.say(runs[i].String())
				p.end()
				mu.Unlock()
			}
		})
	}
	for i := range runs {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	running.Wait()
	return results, context.Cause(ctx)
}

// tcpCell is what the runs of a cell yielded.
func tcpCell(c cell, of []cellResult) report.TCPCell {
	var mbits, retransmits, peak []float64
	for _, r := range of {
		mbits = append(mbits, r.Mbits)
		retransmits = append(retransmits, float64(r.Retransmits))
		peak = append(peak, r.PeakRSS)
	}
	median := report.NewSpread(mbits).Median
	return report.TCPCell{
		RateMbits: float64(c.Rate) / 1e6, RTTMillis: float64(c.RTT) / float64(time.Millisecond),
		Loss: c.Loss, Reordering: c.Reorder, RACK: c.RACK, CongestionControl: c.Congestion,
		Mbits: median, LinkFraction: median * 1e6 / float64(c.Rate),
		Retransmits: report.NewSpread(retransmits).Median, PeakRSS: report.NewSpread(peak).Max,
	}
}

// howTCP says how the table came about.
func howTCP(plan tcpPlan) string {
	one := cell{Time: plan.time}
	return fmt.Sprintf("Mbit/s of payload over one connection between two TCP/IP stacks: the median of %d runs, each of the %v that follow the first %v. "+
		"Both stacks have the same settings, and everything else is the default. In front of the link is a queue of one round trip, and at least %v. "+
		"With reordering, %v%% of the packets are held back by %v.",
		plan.runs, one.Time-one.slowStart(), one.slowStart(), leastQueue, reorderShare*100, reorderHold)
}

func (c *cell) String() string {
	detection, order := "SACK", "in order"
	if c.RACK {
		detection = "RACK"
	}
	if c.Reorder {
		order = "reordered"
	}
	return fmt.Sprintf("%d Mbit/s, %v, %v%% lost, %s: %s and %s", c.Rate/1e6, c.RTT, c.Loss*100, order, detection, c.Congestion)
}
