package overlay

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
)

// A PrivateKey is a node's secret.
type PrivateKey [32]byte

// A PublicKey names a node.
type PublicKey [32]byte

// A PresharedKey is a secret two nodes share besides their key pairs.
type PresharedKey [32]byte

// GeneratePrivateKey makes a new private key.
func GeneratePrivateKey() (PrivateKey, error) {
	var k PrivateKey
	if _, err := rand.Read(k[:]); err != nil {
		return PrivateKey{}, err
	}
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k, nil
}

// GeneratePresharedKey makes a new preshared key.
func GeneratePresharedKey() (PresharedKey, error) {
	var k PresharedKey
	_, err := rand.Read(k[:])
	return k, err
}

// ParsePublicKey reads the base64 form.
func ParsePublicKey(s string) (PublicKey, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != 32 {
		return PublicKey{}, fmt.Errorf("overlay: public key: not 32 bytes in base64")
	}
	return PublicKey(b), nil
}

// Public is the public key of k.
func (k PrivateKey) Public() PublicKey {
	p, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		return PublicKey{}
	}
	return PublicKey(p.PublicKey().Bytes())
}

// IsZero reports whether k is unset.
func (k PrivateKey) IsZero() bool { return k == PrivateKey{} }

// IsZero reports whether k is unset.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// IsZero reports whether k is unset.
func (k PresharedKey) IsZero() bool { return k == PresharedKey{} }

// String hides the key.
func (k PrivateKey) String() string { return "(private key)" }

// String hides the key.
func (k PresharedKey) String() string { return "(preshared key)" }

// String is the base64 form.
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }
