package packet

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSweepTakesDeadPacketsOutInOrder(t *testing.T) {
	b := NewBatch(3)
	for i := range byte(6) {
		require.NotNil(t, b.Append([]byte{i}, 0))
	}
	b.Packets[0].Drop(Filtered)
	b.Packets[2].Bounce()
	b.Packets[3].Drop(NoPeer)
	b.Packets[3].Drop(Filtered) // the first reason stands
	b.Packets[3].Bounce()       // and a dropped packet stays dropped
	b.Packets[5].Bounce()
	b.Packets[5].Drop(Filtered)
	b.Sweep()
	require.Equal(t, []byte{1}, b.Packets[0].Data)
	require.Equal(t, []byte{4}, b.Packets[1].Data)
	require.Len(t, b.Packets, 2)
	require.Len(t, b.Bounced(), 1)
	require.Equal(t, []byte{2}, b.Bounced()[0].Data)
	require.True(t, b.Bounced()[0].Live())
	require.Equal(t, 2, b.Drops(Filtered))
	require.Equal(t, 1, b.Drops(NoPeer))

	b.Reset()
	require.Equal(t, 3, b.Lane)
	require.Empty(t, b.Packets)
	require.Empty(t, b.Bounced())
	require.Zero(t, b.Drops(Filtered))
}

func TestAFullBatchTakesNoMore(t *testing.T) {
	b := NewBatch(0)
	for range BatchSize {
		require.False(t, b.Full())
		require.NotNil(t, b.Append(nil, 0))
	}
	require.True(t, b.Full())
	require.Nil(t, b.Append(nil, 0))
}

// marker is a stage that writes down who saw what.
type marker struct {
	name string
	log  *strings.Builder
	drop bool
}

func (m marker) Outbound(b *Batch) { m.see(b, ">") }
func (m marker) Inbound(b *Batch)  { m.see(b, "<") }

func (m marker) see(b *Batch, way string) {
	m.log.WriteString(m.name + way)
	for i := range b.Packets {
		m.log.WriteByte(b.Packets[i].Data[0])
		if m.drop && i == 0 {
			b.Packets[i].Drop(Filtered)
		}
	}
}

func TestAChainRunsInReverseInboundAndShowsLivePacketsOnly(t *testing.T) {
	var log strings.Builder
	c := Chain{marker{"a", &log, true}, marker{"b", &log, false}}
	fill := func() *Batch {
		b := NewBatch(0)
		b.Append([]byte("x"), 0)
		b.Append([]byte("y"), 0)
		return b
	}
	c.Outbound(fill())
	require.Equal(t, "a>xyb>y", log.String())
	log.Reset()
	c.Inbound(fill())
	require.Equal(t, "b<xya<xy", log.String())
}
