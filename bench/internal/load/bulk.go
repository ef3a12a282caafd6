package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Upload sends to the Server by so many connections at once for about a time
// d, until the Server has it all.
func Upload(ctx context.Context, dial Dial, streams int, d time.Duration) (Moved, error) {
	return bulk(ctx, dial, streams, d, cmdUpload, (*call).upload)
}

// Download is Upload the other way round.
func Download(ctx context.Context, dial Dial, streams int, d time.Duration) (Moved, error) {
	return bulk(ctx, dial, streams, d, cmdDownload, (*call).download)
}

func bulk(ctx context.Context, dial Dial, streams int, d time.Duration, cmd byte, move func(*call, time.Time) (int64, error)) (Moved, error) {
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		total   Moved
		failed  []error
	)
	calls := make([]*call, streams)
	for i := range calls {
		var err error
		if calls[i], err = begin(ctx, dial, d, cmd); err != nil {
			return Moved{}, fmt.Errorf("connection %d: %w", i+1, err)
		}
		defer calls[i].Close()
	}
	start := time.Now()
	for _, c := range calls {
		running.Go(func() {
			n, err := move(c, start.Add(d))
			mu.Lock()
			defer mu.Unlock()
			total.Bytes += n
			failed = append(failed, err)
		})
	}
	running.Wait()
	total.Time = time.Since(start)
	return total, errors.Join(failed...)
}

func (c *call) upload(end time.Time) (int64, error) {
	buf := make([]byte, chunk)
	for time.Now().Before(end) {
		if _, err := c.Write(buf); err != nil {
			return 0, err
		}
	}
	if err := c.closeWrite(); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(c, buf[:8]); err != nil {
		return 0, fmt.Errorf("the other end's count: %w", err)
	}
	return number(buf), nil
}

func (c *call) download(end time.Time) (total int64, err error) {
	buf := make([]byte, chunk)
	for time.Now().Before(end) {
		n, err := c.Read(buf)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}
