package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/flynn/noise"
	"github.com/overlayd/overlayd/overlay"
	"golang.org/x/crypto/blake2s"
	"golang.zx2c4.com/wireguard/tai64n"
)

// callers are many WireGuard nodes of which only as much exists as it takes to
// have a session: each calls once, from a socket that all share.
type callers struct {
	conn    *net.UDPConn
	private []noise.DHKey
	keys    []overlay.PublicKey
}

// Of the WireGuard paper's section 5.4.
const (
	messageInitiation = 1
	messageResponse   = 2
	messageTransport  = 4

	sizeInitiation = 148
	sizeResponse   = 92
	sizeMACs       = 32

	prologue = "WireGuard v1 zx2c4 Jason@zx2c4.com"
)

var suite = noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s)

func newCallers(n int) (*callers, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		return nil, err
	}
	c := &callers{conn: conn}
	for range n {
		key, err := suite.GenerateKeypair(rand.Reader)
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		c.private = append(c.private, key)
		c.keys = append(c.keys, overlay.PublicKey(key.Public))
	}
	return c, nil
}

func (c *callers) close() error { return c.conn.Close() }

// call has every caller make a session with the node, one after the other.
func (c *callers) call(ctx context.Context, node overlay.PublicKey, port uint16) error {
	to := netip.AddrPortFrom(loopback, port)
	for i := range c.private {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.callOnce(i, node, to); err != nil {
			return fmt.Errorf("handshake of peer %d: %w", i, err)
		}
	}
	return nil
}

func (c *callers) callOnce(i int, node overlay.PublicKey, to netip.AddrPort) error {
	handshake, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: suite, Pattern: noise.HandshakeIK, Initiator: true, Prologue: []byte(prologue),
		PresharedKey: make([]byte, 32), PresharedKeyPlacement: 2,
		StaticKeypair: c.private[i], PeerStatic: node[:],
	})
	if err != nil {
		return err
	}
	index := uint32(i) + 1
	now := tai64n.Now()
	m := binary.LittleEndian.AppendUint32(nil, messageInitiation)
	m = binary.LittleEndian.AppendUint32(m, index)
	if m, _, _, err = handshake.WriteMessage(m, now[:]); err != nil {
		return err
	}
	if m, err = appendMACs(m, node); err != nil {
		return err
	}
	response, err := c.ask(m, to, index)
	if err != nil {
		return err
	}
	_, send, _, err := handshake.ReadMessage(nil, response[12:sizeResponse-sizeMACs])
	if err != nil {
		return err
	}
	// An empty packet confirms the session (section 5.4.5).
	m = binary.LittleEndian.AppendUint32(m[:0], messageTransport)
	m = append(m, response[4:8]...) // their index
	m = binary.LittleEndian.AppendUint64(m, 0)
	if m, err = send.Encrypt(m, nil, nil); err != nil {
		return err
	}
	_, err = c.conn.WriteToUDPAddrPort(m, to)
	return err
}

// appendMACs completes a message by mac1, and by no mac2.
func appendMACs(m []byte, node overlay.PublicKey) ([]byte, error) {
	key := blake2s.Sum256(append([]byte("mac1----"), node[:]...))
	mac, err := blake2s.New128(key[:])
	if err != nil {
		return nil, err
	}
	mac.Write(m)
	return append(mac.Sum(m), make([]byte, 16)...), nil
}

// ask sends an initiation and returns the response to it. A lost one is sent
// again.
func (c *callers) ask(initiation []byte, to netip.AddrPort, index uint32) ([]byte, error) {
	const tries, wait = 5, time.Second
	datagram := make([]byte, sizeInitiation)
	for range tries {
		if _, err := c.conn.WriteToUDPAddrPort(initiation, to); err != nil {
			return nil, err
		}
		c.conn.SetReadDeadline(time.Now().Add(wait))
		for {
			n, _, err := c.conn.ReadFromUDPAddrPort(datagram)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				break
			}
			if err != nil {
				return nil, err
			}
			if n == sizeResponse && binary.LittleEndian.Uint32(datagram) == messageResponse &&
				binary.LittleEndian.Uint32(datagram[8:]) == index {
				return datagram[:n], nil
			}
		}
	}
	return nil, errors.New("the node does not answer")
}
