package main

import (
	"bytes"
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAChildTellsWhatItMeasured(t *testing.T) {
	s, err := runInChild(t.Context(), measureJob{Scenario: aeadName, Side: ours, Time: 20 * time.Millisecond})
	require.NoError(t, err)
	require.Len(t, s.Values, len(findScenario(aeadName).metrics))
	for _, v := range s.Values {
		require.Positive(t, v)
	}
	require.Nil(t, s.AllocsPerMB, "it moves nothing")
}

func TestAChildsErrorIsTheParents(t *testing.T) {
	_, err := runInChild(t.Context(), measureJob{Scenario: "nothing"})
	require.ErrorContains(t, err, `there is no scenario "nothing"`)
	require.ErrorContains(t, spawn(t.Context(), exec.Command, job{}, 0, nil), "no job")
}

func TestAChildEndsWithItsParentsPatience(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := runInChild(ctx, measureJob{Scenario: aeadName, Side: ours, Time: time.Hour})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), 20*time.Second)
}

func TestServerAndTrafficRunInProcessesOfTheirOwn(t *testing.T) {
	cmd, err := childCommand(exec.Command, job{Serve: &serveJob{Addr: "127.0.0.1:0"}})
	require.NoError(t, err)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	require.NoError(t, cmd.Start())
	require.NoError(t, stdin.Close(), "which ends it")
	require.NoError(t, cmd.Wait())
	require.Equal(t, "listening\n", stdout.String())

	var r trafficResult
	err = spawn(t.Context(), exec.Command, job{Traffic: &trafficJob{Name: "tcp1", To: "127.0.0.1:1", Time: time.Millisecond}}, 0, &r)
	require.ErrorContains(t, err, "refused")
	err = spawn(t.Context(), exec.Command, job{Traffic: &trafficJob{Name: "nothing"}}, 0, &r)
	require.ErrorContains(t, err, `there is no traffic "nothing"`)
}
