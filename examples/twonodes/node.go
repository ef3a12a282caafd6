package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/overlayd/overlayd/netstack"
	"github.com/overlayd/overlayd/overlay"
)

// A node is an overlay.Node on a TCP/IP stack of its own.
type node struct {
	*overlay.Node
	stack *netstack.Stack
}

func newNode(addr string) (*node, error) {
	key, err := overlay.GeneratePrivateKey()
	if err != nil {
		return nil, err
	}
	stack, err := netstack.New(netstack.Config{Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}})
	if err != nil {
		return nil, err
	}
	n, err := overlay.New(overlay.Config{PrivateKey: key, Device: stack.Device()})
	if err != nil {
		return nil, errors.Join(err, stack.Close())
	}
	return &node{n, stack}, nil
}

// card is what the other process has to know of n: KEY@HOST:PORT.
func (n *node) card(host string) string {
	return n.PublicKey().String() + "@" + net.JoinHostPort(host, strconv.Itoa(int(n.ListenPort())))
}

// addPeer adds the node that a card is of, and which has one address.
func (n *node) addPeer(card, addr string) error {
	key, endpoint, ok := strings.Cut(card, "@")
	if !ok {
		return fmt.Errorf("%q is not of the form KEY@HOST:PORT", card)
	}
	public, err := overlay.ParsePublicKey(key)
	if err != nil {
		return err
	}
	return n.SetPeer(context.Background(), overlay.Peer{
		PublicKey:  public,
		Endpoint:   endpoint,
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix(addr)},
	})
}

// startSecond runs this program once more.
func startSecond(me string) (them string, done func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.Command(self, "-join", me)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	done = func() error { return errors.Join(in.Close(), cmd.Wait()) }
	if them, err = readLine(out); err != nil {
		return "", nil, errors.Join(fmt.Errorf("the second process did not say who it is: %w", err), done())
	}
	return them, done, nil
}

// byHand leaves it to the user to run the second process.
func byHand(me string) (them string, done func() error, err error) {
	fmt.Printf("In another terminal run\n\n  go run ./examples/twonodes -join %s\n\nand paste here the line that it prints: ", me)
	if them, err = readLine(os.Stdin); err != nil {
		return "", nil, fmt.Errorf("no line was given: %w", err)
	}
	return them, func() error { return nil }, nil
}

func readLine(r io.Reader) (string, error) {
	line, err := bufio.NewReader(r).ReadString('\n')
	return strings.TrimSpace(line), err
}
