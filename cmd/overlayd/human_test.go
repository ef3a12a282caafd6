package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAmountsHaveThreeDigitsAtMost(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1500: "1.5 KiB", 100 << 10: "100 KiB", 1000 << 10: "1.0 MiB",
		3 << 30: "3.0 GiB", 1<<64 - 1: "16.0 EiB",
	} {
		require.Equal(t, want, bytesText(n))
	}
}

func TestAgesAreInTheirLargestUnits(t *testing.T) {
	for secs, want := range map[uint64]string{
		0: "0 s", 1: "1 s", 59: "59 s", 60: "1 min", 61: "1 min 1 s", 600: "10 min", 601: "10 min", 3600: "1 h", 3601: "1 h",
		7500: "2 h 5 min", 86400: "1 d", 90000: "1 d 1 h", 86400 * 400: "400 d",
	} {
		require.Equal(t, want, ageText(secs))
	}
}

func TestWhatComesFromElsewhereIsMadeFitForATerminal(t *testing.T) {
	require.Equal(t, "naïve ☃", clean("naïve ☃"))
	require.Equal(t, `a\u000ab\u001b[2J\u0007`, clean("a\nb\x1b[2J\a"))
	require.Equal(t, "\ufffd", clean("\xff"))
	require.Equal(t, `\u202e`, clean("\u202e"), "text that runs the other way hides what it is")
}

func TestLinesAreCutWithoutTheirTones(t *testing.T) {
	require.Equal(t, "\x1b[1mab\x1b[0m", cut("\x1b[1mabc\x1b[0md", 2))
	require.Equal(t, "☃☃", cut("☃☃☃", 2))
	require.Equal(t, "ab", cut("ab", 2))
}

func TestColumnsWithNothingInThemAreLeftOut(t *testing.T) {
	p := (&app{}).page()
	p.table([]column{{title: "A"}, {title: "B"}, {title: "N", right: true}}, [][]cell{
		{text("x"), text(""), text("1")},
		{text("long"), text(""), text("100")},
	})
	require.Equal(t, "A       N\nx       1\nlong  100\n", p.String())
}
