package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Upload sends to the Server by so many connections at once for about a time
// d, until the Server has it all.
func Upload(ctx context.Context, dial Dial, streams int, d time.Duration) (Moved, error) {
	return bulk(ctx, dial, streams, d, cmdUpload, (*call).upload)
}

// Download receives from the Server by so many connections at once for a time d:
// what is on its way then does not count.
func Download(ctx context.Context, dial Dial, streams int, d time.Duration) (Moved, error) {
	return bulk(ctx, dial, streams, d, cmdDownload, (*call).download)
}

// Steady is Download by one connection for a time d, of which the first part does
// not count: what slow start takes.
func Steady(ctx context.Context, dial Dial, first, d time.Duration) (Moved, error) {
	c, err := begin(ctx, dial, d, cmdDownload)
	if err != nil {
		return Moved{}, err
	}
	defer c.Close()
	start := time.Now()
	if _, err := c.download(start.Add(first)); err != nil {
		return Moved{}, err
	}
	counted := time.Now()
	n, err := c.download(start.Add(d))
	return Moved{Bytes: n, Time: time.Since(counted)}, err
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
	if err := c.SetReadDeadline(end); err != nil {
		return 0, err
	}
	buf := make([]byte, chunk)
	for time.Now().Before(end) {
		n, err := c.Read(buf)
		total += int64(n)
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			break
		}
		if err != nil {
			return total, err
		}
	}
	return total, nil
}
