package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// maxLatencies bounds what one connection remembers.
const maxLatencies = 1 << 18

// RoundTrips sends one byte and waits for it to come back, over and over for a
// time d, at least once.
func RoundTrips(ctx context.Context, dial Dial, d time.Duration) (Latencies, error) {
	c, err := begin(ctx, dial, d, cmdEcho)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var one [1]byte
	trip := func() (time.Duration, error) {
		start := time.Now()
		if _, err := c.Write(one[:]); err != nil {
			return 0, err
		}
		_, err := io.ReadFull(c, one[:])
		return time.Since(start), err
	}
	if _, err := trip(); err != nil { // until the Server has the command
		return nil, err
	}
	l := make(Latencies, 0, 1<<14)
	for start := time.Now(); len(l) == 0 || time.Since(start) < d && len(l) < maxLatencies; {
		took, err := trip()
		if err != nil {
			return nil, err
		}
		l = append(l, took)
	}
	return l, nil
}

// Connects makes a connection, a request of one byte, reads the answer up to the
// end and closes, over and over for a time d and by so many at once, each at least
// once.
func Connects(ctx context.Context, dial Dial, atOnce int, d time.Duration) (Latencies, error) {
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		all     Latencies
		failed  []error
	)
	start := time.Now()
	for range atOnce {
		running.Go(func() {
			var l Latencies
			var err error
			for err == nil && (len(l) == 0 || time.Since(start) < d && len(l) < maxLatencies) {
				var took time.Duration
				if took, err = timed(ctx, dial); err == nil {
					l = append(l, took)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, l...)
			failed = append(failed, err)
		})
	}
	running.Wait()
	return all, errors.Join(failed...)
}

func timed(ctx context.Context, dial Dial) (time.Duration, error) {
	start := time.Now()
	err := Request(ctx, dial)
	return time.Since(start), err
}

// Request makes one connection as Connects does.
func Request(ctx context.Context, dial Dial) error {
	c, err := begin(ctx, dial, 0, cmdRequest)
	if err != nil {
		return err
	}
	defer c.Close()
	answer, err := io.ReadAll(c)
	if err == nil && len(answer) != 1 {
		err = fmt.Errorf("the answer has %d bytes, not 1", len(answer))
	}
	return err
}
