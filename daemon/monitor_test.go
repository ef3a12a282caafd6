package daemon

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
	"github.com/stretchr/testify/require"
)

// A stoppedLog takes nothing until it is let go on.
type stoppedLog struct {
	reached, let chan struct{}
}

func (l *stoppedLog) Write(b []byte) (int, error) {
	l.reached <- struct{}{}
	<-l.let
	return len(b), nil
}

// Somebody's terminal may be stopped, or a pipe full.
func TestStatusDoesNotWaitForTheLog(t *testing.T) {
	for name, warn := range map[string]func(d *Daemon){
		"of a degraded part": func(d *Daemon) { d.degrade(partFirewall, errFlushed) },
		"of names":           func(d *Daemon) { d.toldNames(&nameService{}, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newRootless(t)
			require.NoError(t, d.openNames(nil))
			t.Cleanup(d.closeNames)
			d.faults.part = map[string]string{partDNS: "it is down"}
			log := &stoppedLog{make(chan struct{}), make(chan struct{})}
			d.log = slog.New(slog.NewTextHandler(log, nil))
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				warn(d)
			}()
			<-log.reached
			answered := make(chan wire.Status, 1)
			go func() { answered <- d.status() }()
			select {
			case <-answered:
			case <-time.After(5 * time.Second):
				require.Fail(t, "status waits for the log")
			}
			close(log.let)
			<-ended
		})
	}
}

func TestAReasonIsCutBetweenCharacters(t *testing.T) {
	d := newParts(t)
	d.degrade(partDNS, errors.New("x"+string(bytes.Repeat([]byte("é"), maxReason))))
	require.Contains(t, d.degraded()[partDNS], "é…")
}

func TestWhatIsWrongWithADeviceGoesWithIt(t *testing.T) {
	d := newParts(t)
	d.mode = ModeRootless
	d.resolver = newResolver()
	d.ctx = t.Context()
	key, err := overlay.GeneratePrivateKey()
	require.NoError(t, err)
	v, err := d.openDevice("web", tunnelConfig{name: "ovl-t-d", key: key, addrs: []netip.Prefix{netip.MustParsePrefix("10.200.1.14/32")}})
	require.NoError(t, err)
	for _, part := range []string{"device", "peers", "routes", "record"} {
		d.degrade(v.part(part), errFlushed)
	}
	require.NoError(t, v.close())
	require.Empty(t, d.degraded())
	d.running.Wait()
}
