// Dns serves a small zone on 127.0.0.1:5353 over UDP and TCP:
//
//	go run ./examples/dns &
//	dig @127.0.0.1 -p 5353 web.overlay.internal +short
package main

import (
	"fmt"
	"log"
	"net/netip"
	"os"
	"os/signal"

	"github.com/overlayd/overlayd/dnsd"
)

func main() {
	zone, err := dnsd.NewZone(dnsd.ZoneConfig{Origin: "overlay.internal"})
	check(err)
	check(zone.SetAddresses("web", netip.MustParseAddr("10.200.3.4"), netip.MustParseAddr("fd00:200::4")))
	check(zone.Add(dnsd.Record{Name: "www", Data: dnsd.CNAME("web")}))
	check(zone.Add(dnsd.Record{Name: "_http._tcp", Data: dnsd.SRV{Port: 80, Target: "web"}}))

	server, err := dnsd.New(dnsd.Config{Zones: []*dnsd.Zone{zone}})
	check(err)
	defer server.Close()
	listener, err := server.Listen("127.0.0.1:5353")
	check(err)
	fmt.Println("serving", zone.Origin(), "on", listener.Addr())

	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	<-interrupted
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
