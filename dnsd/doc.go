// Package dnsd answers DNS queries for the overlay: it is authoritative for the
// zones it is given, and forwards the rest to the resolvers it is told of.
//
// A Zone holds names and may be read and changed from any goroutine; reverse
// zones follow from its addresses. A Server answers from zones on any
// net.PacketConn and net.Listener, whether the kernel's or those of a TCP/IP
// stack in the process, and says by source who may ask, who may have queries
// forwarded, and how much.
//
//	zone, err := dnsd.NewZone(dnsd.ZoneConfig{Origin: "overlay.internal"})
//	err = zone.SetAddresses("web", netip.MustParseAddr("10.200.3.4"))
//	server, err := dnsd.New(dnsd.Config{Zones: []*dnsd.Zone{zone}})
//	listener, err := server.Listen("10.200.0.1:53") // UDP and TCP
//	defer server.Close()
//
// There are two paths to an answer. An ordinary query for a name of a zone, or
// for an answer in the cache, becomes its answer in the bytes it came in: no
// lock, no allocation, and where the kernel allows 64 datagrams with a system
// call. Everything else, and everything the first path also knows, the general
// path answers with github.com/miekg/dns. NewStage puts the first path into a
// chain of packet stages, so that a virtual address answers without a socket.
//
// No query leaves the machine unless Config.Forward names who is to be asked.
// What upstreams say is not believed beyond what was asked of them, and kept
// within bounds.
package dnsd
