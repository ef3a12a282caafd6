package netstack

import (
	"net"
	"testing"

	"golang.org/x/net/nettest"
)

func TestTCPConnIsANetConn(t *testing.T) {
	for _, over := range []struct {
		name   string
		ab, ba wire
	}{{"superpackets kept whole", whole, whole}, {"superpackets cut", cut, cut}, {"superpackets cut and merged", merged, merged}} {
		for _, network := range []string{"tcp4", "tcp6"} {
			t.Run(over.name+" over "+network, func(t *testing.T) {
				nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
					a, b := newPairOver(t, Config{}, over.ab, over.ba)
					host := addrB4
					if network == "tcp6" {
						host = addrB6
					}
					c1, c2 = connect(t, a, b, network, host.Addr().String())
					return c1, c2, func() {
						c1.Close()
						c2.Close()
					}, nil
				})
			})
		}
	}
}
