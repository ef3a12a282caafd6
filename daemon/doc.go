// Package daemon is overlayd: the library put together for one host, and driven
// over a socket by the contract in package wire.
//
//	d, err := daemon.New(daemon.Config{DataDir: "/var/lib/overlayd"})
//	…
//	err = d.Serve(ctx) // until ctx ends, or a client asks for the end
//
// # Owners
//
// Each thing on the host has one owner: the node's device and its peers, each
// service with its bridge and perhaps a device of its own, each attachment. A
// request locks what it changes and nothing else, and status takes no lock that is
// ever held while the kernel or a disk is waited for.
//
// Locks are taken in this order: who changes the node's overlay or a service, one
// at a time each; the use of a service; the use of the node's overlay; an
// attachment; a device; the published ports of an address; the firewall, which
// records the sysctls it changes; what there is one of on record; the routes, the
// plan of addresses and the stores, none of which calls anybody else. Names of peers
// are looked up before any of them; what the node asks for itself, as of a peer that
// does not answer, is looked up with none of them held.
//
// # What survives
//
// What is set up is first made and then recorded, what is torn down is first struck
// from the record and then undone. So after a crash at any point what is recorded
// is wanted, and whatever else carries our alias, or is leased to nobody on record,
// is left over. New makes the host agree with the record: it adopts what is there,
// makes what is missing and removes what is left over. It touches no link without
// our alias.
//
// While it runs it keeps them agreeing. Cables and bridges are mended at once, by the
// kernel's news of the host's links; what is missing inside of a container, of what it
// was given there, within half a minute, by looking. What a container has added stays,
// and what it takes away again and again is put back after longer and longer times.
// Of a container whose process that it was attached by has ended, while others live in
// it, only the host's end can be seen to.
//
// The rules and sysctls of a network namespace are there once, so that there is one
// overlayd to a namespace: it holds an abstract socket named "@overlayd" there, which
// is free again when its process has ended, however that was. Rootless ones hold
// nothing.
package daemon
