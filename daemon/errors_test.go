package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"testing"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/ipam"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

func TestErrorsHaveTheCodeThatTheirCauseCallsFor(t *testing.T) {
	for _, c := range []struct {
		err       error
		code      wire.Code
		retryable bool
	}{
		{invalid("f", "is wrong"), wire.InvalidRequest, false},
		{fmt.Errorf("x: %w", failed(wire.NotReady, "y")), wire.NotReady, true},
		{because(&ipam.Error{Op: "allocate", Err: ipam.ErrExhausted}, "z"), wire.Exhausted, false},
		{because(&ipam.Error{Op: "assign", Err: fmt.Errorf("%w: x", ipam.ErrOverlap)}, "z"), wire.Conflict, false},
		{&overlay.OverlapError{}, wire.Conflict, false},
		{&overlay.ConfigError{Field: "x", Err: errors.New("y")}, wire.InvalidRequest, false},
		{&overlay.ConfigError{Field: "ListenPort", Err: syscall.EADDRINUSE}, wire.Conflict, false},
		{context.DeadlineExceeded, wire.Timeout, true},
		{context.Canceled, wire.ShuttingDown, true},
		{net.ErrClosed, wire.ShuttingDown, true},
		{&fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, wire.Permission, false},
		{syscall.ENOSPC, wire.Exhausted, false},
		{errors.ErrUnsupported, wire.Unsupported, false},
		{errors.New("what nobody thought of"), wire.Internal, false},
		{because(errors.New("x"), "y"), wire.Internal, false},
	} {
		e := reply(c.err)
		require.Equal(t, c.code, e.Code, "%v", c.err)
		require.Equal(t, c.retryable, e.Retryable, "%v", c.err)
		require.Equal(t, c.err.Error(), e.Message)
	}
}

func TestTheFieldAtFaultIsFoundUnderWhatWasDone(t *testing.T) {
	inner := &Error{Code: wire.Conflict, Field: "subnet", Msg: "is taken"}
	e := reply(errors.Join(nil, because(inner, "service %q was not set up", "web")))
	require.Equal(t, wire.Err{Message: `service "web" was not set up: subnet: is taken`, Code: wire.Conflict, Field: "subnet"}, e)
	require.ErrorIs(t, because(inner, "x"), wire.Conflict)
	require.Equal(t, "cidr", reply(renamed(invalid("allowed_ips", "x"), ofAllowance)).Field)
}

func TestWhatIsUndoneIsUndoneLastFirst(t *testing.T) {
	var did []string
	var s steps
	step := func(name string, err error) error {
		return s.do(name, func() error { did = append(did, "do "+name); return err }, func() error { did = append(did, "undo "+name); return nil })
	}
	var points []string
	failpoint = func(p string) { points = append(points, p) }
	defer func() { failpoint = func(string) {} }()
	require.NoError(t, step("a", nil))
	require.NoError(t, s.do("b", func() error { return nil }, func() error { return errors.New("stuck") }))
	failure := errors.New("failure")
	require.ErrorIs(t, step("c", failure), failure)
	err := s.rollback(failure)
	require.ErrorIs(t, err, failure)
	require.Equal(t, "failure; and it could not be undone: stuck", err.Error())
	require.Equal(t, []string{"do a", "do c", "undo a"}, did)
	require.Equal(t, []string{"a:before", "a:after", "b:before", "b:after", "c:before"}, points)
	require.NoError(t, s.rollback(nil), "once is enough")
}
