package wireguard

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/flynn/noise"
	"golang.zx2c4.com/wireguard/tai64n"
)

// prologue is mixed into every handshake (whitepaper section 5.4).
var prologue = []byte("WireGuard v1 zx2c4 Jason@zx2c4.com")

var (
	errMalformed    = errors.New("wireguard: malformed handshake message")
	errUnauthentic  = errors.New("wireguard: handshake message failed authentication")
	errLowOrder     = errors.New("wireguard: public key of low order")
	errSpent        = errors.New("wireguard: handshake is over")
	errNoPrivateKey = errors.New("wireguard: private key is all zero")
)

// An identity is our static key pair. Its methods may be called at once, save
// wipe.
type identity struct {
	private *ecdh.PrivateKey
	key     [sizeKey]byte // the public key
	random  io.Reader     // of ephemeral keys; nil: crypto/rand

	mu     sync.RWMutex
	shared map[[sizeKey]byte]*[sizeKey]byte // static-static secrets of peers, by public key
}

// newIdentity makes an identity of a private key, clamped or not: X25519 clamps
// whatever it is given (RFC 7748 section 5).
func newIdentity(private [sizeKey]byte) (*identity, error) {
	defer clear(private[:])
	if private == ([sizeKey]byte{}) {
		return nil, errNoPrivateKey
	}
	key, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		return nil, fmt.Errorf("wireguard: private key: %w", err)
	}
	id := &identity{private: key, shared: make(map[[sizeKey]byte]*[sizeKey]byte)}
	copy(id.key[:], key.PublicKey().Bytes())
	return id, nil
}

func (id *identity) public() [sizeKey]byte { return id.key }

// know computes the secret shared with a peer once, so that no handshake with
// it has to. Without it handshakes work the same, one scalar multiplication
// slower. It fails when the public key is of low order.
func (id *identity) know(peer [sizeKey]byte) error {
	secret, err := agree(id.private, peer[:])
	if err != nil {
		return err
	}
	defer clear(secret)
	id.mu.Lock()
	defer id.mu.Unlock()
	kept := new([sizeKey]byte)
	copy(kept[:], secret)
	id.shared[peer] = kept
	return nil
}

// forget undoes know.
func (id *identity) forget(peer [sizeKey]byte) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if secret := id.shared[peer]; secret != nil {
		clear(secret[:])
		delete(id.shared, peer)
	}
}

// wipe ends the identity. No handshake may be under way.
func (id *identity) wipe() {
	id.mu.Lock()
	defer id.mu.Unlock()
	for _, secret := range id.shared {
		clear(secret[:])
	}
	clear(id.shared)
	wipePrivateKey(id.private)
}

// transportKeys are what a handshake ends in.
type transportKeys struct {
	send, receive [sizeKey]byte
}

func (k *transportKeys) wipe() { *k = transportKeys{} }

// An initiator is a handshake we began. It is not safe for use by many
// goroutines at once.
type initiator struct {
	index uint32
	curve *curve
	state *noise.HandshakeState // nil: over
}

// initiate begins a handshake with a peer, under our index. An all-zero psk is
// no psk. The MACs of the message are zero, for cookieJar.addMACs to set.
func (id *identity) initiate(peer, psk [sizeKey]byte, index uint32, timestamp tai64n.Timestamp) (msg [sizeInitiation]byte, hs *initiator, err error) {
	defer clear(psk[:])
	hs = &initiator{index: index, curve: &curve{id: id}}
	hs.state, err = hs.curve.handshake(noise.Config{
		Initiator:    true,
		PeerStatic:   peer[:],
		PresharedKey: psk[:],
	})
	if err != nil {
		return msg, nil, err
	}
	putInitiationHeader(msg[:], index)
	if _, _, _, err := hs.state.WriteMessage(initiationNoise(msg[:])[:0], timestamp[:]); err != nil {
		hs.wipe()
		return [sizeInitiation]byte{}, nil, err
	}
	return msg, hs, nil
}

// finish consumes the response. When that fails the handshake goes on waiting
// for the true one: anyone who saw the initiation can forge a response.
func (hs *initiator) finish(msg []byte) (keys transportKeys, remoteIndex uint32, err error) {
	if hs.state == nil {
		return keys, 0, errSpent
	}
	if messageType(msg) != typeResponse || receiverIndex(msg) != hs.index {
		return keys, 0, errMalformed
	}
	// noise takes its state back after a failed decryption but not after a
	// failed key agreement, so a key of low order has to be found before.
	body := responseNoise(msg)
	if _, err := hs.curve.DH(ephemeralName, body[:sizeKey]); err != nil {
		return keys, 0, err
	}
	_, send, receive, err := hs.state.ReadMessage(nil, body)
	if err != nil {
		hs.curve.undo()
		return keys, 0, errUnauthentic
	}
	keys.take(send, receive)
	hs.wipe()
	return keys, senderIndex(msg), nil
}

// wipe ends the handshake. It may be called again, and after finish.
func (hs *initiator) wipe() {
	hs.state = hs.curve.wipe(hs.state)
}

// A responder is a handshake a peer began. It is not safe for use by many
// goroutines at once.
type responder struct {
	peer        [sizeKey]byte // who began it, proven
	timestamp   tai64n.Timestamp
	remoteIndex uint32

	curve *curve
	state *noise.HandshakeState // nil: over
}

// receive consumes an initiation. That the peer is one of ours, that the
// timestamp is newer than the last, and the MACs, are for the caller to check.
func (id *identity) receive(msg []byte) (*responder, error) {
	if messageType(msg) != typeInitiation {
		return nil, errMalformed
	}
	hs := &responder{remoteIndex: senderIndex(msg), curve: &curve{id: id}}
	var err error
	if hs.state, err = hs.curve.handshake(noise.Config{}); err != nil {
		return nil, err
	}
	timestamp, _, _, err := hs.state.ReadMessage(nil, initiationNoise(msg))
	if err != nil {
		hs.wipe()
		if errors.Is(err, errLowOrder) {
			return nil, errLowOrder
		}
		return nil, errUnauthentic
	}
	copy(hs.timestamp[:], timestamp)
	copy(hs.peer[:], hs.state.PeerStatic())
	return hs, nil
}

// respond ends the handshake with a response, under our index. An all-zero psk
// is no psk. The MACs of the message are zero, for cookieJar.addMACs to set.
func (hs *responder) respond(psk [sizeKey]byte, index uint32) (msg [sizeResponse]byte, keys transportKeys, err error) {
	defer clear(psk[:])
	if hs.state == nil {
		return msg, keys, errSpent
	}
	defer hs.wipe()
	if err := hs.state.SetPresharedKey(psk[:]); err != nil {
		return msg, keys, err
	}
	putResponseHeader(msg[:], index, hs.remoteIndex)
	_, receive, send, err := hs.state.WriteMessage(responseNoise(msg[:])[:0], nil)
	if err != nil {
		return [sizeResponse]byte{}, keys, err
	}
	keys.take(send, receive)
	return msg, keys, nil
}

// wipe ends the handshake. It may be called again, and after respond.
func (hs *responder) wipe() {
	hs.state = hs.curve.wipe(hs.state)
}
