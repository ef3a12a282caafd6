package dnsd_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/netip"
	"time"

	"github.com/overlayd/overlayd/dnsd"
)

// A zone on a loopback address, and the standard library asking it.
func Example() {
	zone, err := dnsd.NewZone(dnsd.ZoneConfig{Origin: "overlay.internal"})
	if err != nil {
		log.Fatal(err)
	}
	if err := zone.SetAddresses("web", netip.MustParseAddr("10.200.3.4")); err != nil {
		log.Fatal(err)
	}
	server, err := dnsd.New(dnsd.Config{Zones: []*dnsd.Zone{zone}})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	listener, err := server.Listen("127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}

	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, listener.Addr().String())
	}}
	addrs, err := resolver.LookupHost(context.Background(), "web.overlay.internal")
	fmt.Println(addrs, err)
	names, err := resolver.LookupAddr(context.Background(), "10.200.3.4")
	fmt.Println(names, err)
	// Output:
	// [10.200.3.4] <nil>
	// [web.overlay.internal.] <nil>
}

// Two names change hands in one step: no query sees one without the other.
func ExampleZone_Update() {
	zone, err := dnsd.NewZone(dnsd.ZoneConfig{Origin: "overlay.internal"})
	if err != nil {
		log.Fatal(err)
	}
	blue, green := netip.MustParseAddr("10.200.3.4"), netip.MustParseAddr("10.200.3.5")
	err = zone.Update(func(tx *dnsd.Tx) error {
		if err := tx.SetAddresses("live", green); err != nil {
			return err
		}
		return tx.SetAddresses("spare", blue)
	})
	if err != nil {
		log.Fatal(err)
	}
	err = zone.Update(func(tx *dnsd.Tx) error {
		if err := tx.Set(dnsd.Record{Name: "live", TTL: time.Minute, Data: dnsd.Address(blue)}); err != nil {
			return err
		}
		return tx.Add(dnsd.Record{Name: "live.example.com.", Data: dnsd.Address(green)})
	})
	fmt.Println(err)
	records, err := zone.Lookup("live")
	fmt.Println(records[0].Name, records[0].Data, err)
	// Output:
	// dnsd: name "live.example.com.": is outside the zone overlay.internal.
	// live.overlay.internal. 10.200.3.5 <nil>
}
