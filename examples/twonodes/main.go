// Command twonodes runs two nodes of an overlay as two processes; the first asks
// a web server on the second. Only public keys pass between them.
//
//	go run ./examples/twonodes
//	go run ./examples/twonodes -manual
//
// The second form prints the command that starts the second process, for another
// terminal or, with -host, another machine.
package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	host := flag.String("host", "127.0.0.1", "where the other process reaches this one")
	manual := flag.Bool("manual", false, "print the command for the second process instead of running it")
	join := flag.String("join", "", "be the second process; `KEY@HOST:PORT` is the first")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "twonodes: %q is more than is wanted here\n", flag.Arg(0))
		flag.Usage()
		os.Exit(2)
	}

	var err error
	switch {
	case *join != "":
		err = second(*host, *join, os.Stdin, os.Stdout)
	case *manual:
		err = first(*host, byHand, os.Stdout)
	default:
		err = first(*host, startSecond, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "twonodes:", err)
		os.Exit(1)
	}
}

// An invitation tells the second process who the first is, and returns who the
// second is. Done ends the second process.
type invitation func(me string) (them string, done func() error, err error)

func first(host string, invite invitation, out io.Writer) error {
	me, err := newNode("10.200.0.1/24")
	if err != nil {
		return err
	}
	defer me.Close()
	them, done, err := invite(me.card(host))
	if err != nil {
		return err
	}
	defer done()
	if err := me.addPeer(them, "10.200.0.2/32"); err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DialContext: me.stack.DialContext}}
	resp, err := client.Get("http://10.200.0.2/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	fmt.Fprintf(out, "process %d asked http://10.200.0.2/ and got: ", os.Getpid())
	_, err = io.Copy(out, resp.Body)
	return err
}

// second serves a page to the first until its input ends.
func second(host, them string, in io.Reader, out io.Writer) error {
	me, err := newNode("10.200.0.2/24")
	if err != nil {
		return err
	}
	defer me.Close()
	if err := me.addPeer(them, "10.200.0.1/32"); err != nil {
		return err
	}
	pages, err := me.stack.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	go http.Serve(pages, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s, this is process %d\n", r.RemoteAddr, os.Getpid())
	}))
	fmt.Fprintln(out, me.card(host))
	_, err = io.Copy(io.Discard, in)
	return err
}
