// Package hostnet changes the network of the host: links, their addresses and
// their routes. It is the one package that does; what is built on it decides what
// the host's network is to be, and only this one knows how the system is told.
package hostnet

// A Link is a network interface as it is now.
type Link struct {
	Index int // never given to another link of the namespace while this one exists
	Name  string
	MTU   int
	Up    bool // set up by its administrator, with or without a carrier
}
