package main

import (
	"context"
	"errors"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
)

// endpoint is where the daemon is.
func (a *app) endpoint() (string, error) {
	switch {
	case a.socket != "":
		return a.socket, wellFormed(a.socket)
	case a.dataDir != "":
		endpoint := client.DataDirEndpoint(a.dataDir)
		return endpoint, wellFormed(endpoint)
	}
	endpoint, err := client.DefaultEndpoint()
	if err != nil {
		return "", misused("%w with --socket or --data-dir", err)
	}
	return endpoint, nil
}

// dial connects to the daemon, with so many attempts, or once.
func (a *app) dial(ctx context.Context, attempts int) (*client.Client, error) {
	endpoint, err := a.endpoint()
	if err != nil {
		return nil, err
	}
	c, err := client.Dial(ctx, client.Config{Endpoint: endpoint, Attempts: attempts, Name: "overlayd " + version()})
	return c, a.told("connecting", err)
}

// once is how often it is tried to reach a daemon that ought to run: a person, or
// a script, knows better than to wait.
const once = -1

// ask sends the daemon one request.
func (a *app) ask(ctx context.Context, r wire.Request) (wire.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	c, err := a.dial(ctx, once)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	res, err := c.Call(ctx, r)
	return res, a.told(r.Op(), err)
}

// told makes an error of the client one that says what to do.
func (a *app) told(what string, err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &slowError{what, a.timeout}
	case errors.Is(err, client.ErrUnreachable):
		endpoint, _ := a.endpoint() // it has been dialled
		return &unreachableError{endpoint, err}
	}
	return err
}

// asked is what answers a request, if it is what ought to.
func asked[R wire.Response](ctx context.Context, a *app, r wire.Request) (R, error) {
	var none R
	res, err := a.ask(ctx, r)
	if err != nil {
		return none, err
	}
	if res, ok := res.(R); ok {
		return res, nil
	}
	return none, errors.New(r.Op() + ": the daemon answered with " + res.Result() + " and not " + none.Result())
}

// wellFormed finds fault with a path that no socket can have.
func wellFormed(endpoint string) error {
	if err := client.CheckEndpoint(endpoint); err != nil {
		return &usageError{err}
	}
	return nil
}
