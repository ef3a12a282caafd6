// Bench measures us and our peers side by side.
//
//	go run ./bench [-quick] [-run regexp] [-json file] [-markdown file] [-report file.html]
//	go run ./bench -tcp [-quick] [-json file] [-markdown file]
//
// Every scenario runs ours and the peer in turn, A B A B, each run in a process of
// its own, so that whatever else the machine does hits both alike and neither
// inherits the other's memory. What counts is the ratio of neighbouring runs. A
// run of the cipher alone stands beside each pair of a tunnel's: it is the limit
// that both share.
//
// Datagrams are sent as fast as the near host takes them. Where the ends are the
// system's sockets they move by sendmmsg and by recvmmsg with UDP_GRO, and many
// may wait to be read, for ours and for the peer alike: a load of a system call
// to a datagram takes the cores from the nodes, and loses what they delivered.
//
// Scenarios that need namespaces and TUN devices need root; the bench makes what
// it needs and leaves nothing behind. What cannot run is listed with the reason.
//
// The scenarios ipam-, dns- and ipc- are measured by commands of the module in
// bench/peers, which has the peers' dependencies and is run from the repository.
//
// With -tcp it measures instead one upload between two TCP/IP stacks over a
// simulated link, for every choice of congestion control and loss detection.
//
// The same loads are Go benchmarks, for benchstat:
//
//	go test -run NONE -bench . -benchtime 300ms -count 6 ./bench > new.txt
//	benchstat bench/baseline.txt new.txt
package main
