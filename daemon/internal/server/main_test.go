package server

import (
	"testing"

	"github.com/overlayd/overlayd/internal/testchild"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	helpers.Main() // does not return in a process a test started
	goleak.VerifyTestMain(m)
}

// helpers are what a process that a test starts can do.
var helpers = testchild.Helpers{}
