// Package dnsd answers DNS queries for the overlay: it is authoritative for the
// zones it is given, and forwards the rest to the resolvers it is told of.
//
// A Zone holds names and may be read and changed from any goroutine. A Server
// answers from zones on any net.PacketConn and net.Listener, whether the
// kernel's or those of a TCP/IP stack in the process.
//
//	zone, err := dnsd.NewZone(dnsd.ZoneConfig{Origin: "overlay.internal"})
//	err = zone.SetAddresses("web", netip.MustParseAddr("10.200.3.4"))
//	server, err := dnsd.New(dnsd.Config{Zones: []*dnsd.Zone{zone}})
//	listener, err := server.Listen("127.0.0.1:53") // UDP and TCP
//	defer server.Close()
package dnsd
