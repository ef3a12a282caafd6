package wireguard

import (
	"bytes"
	"crypto/ecdh"
	"io"

	"github.com/flynn/noise"
)

// A curve is X25519 for one handshake, the way noise asks for it, with the
// private keys kept out of noise: it holds their names and we look them up. That
// leaves one copy of each to wipe, and saves half the work, for crypto/ecdh
// multiplies once more for every private key it is given as bytes.
type curve struct {
	id        *identity
	ephemeral *ecdh.PrivateKey
	agreed    []agreement
}

// An agreement is a secret the handshake has come to.
type agreement struct {
	private string
	public  [sizeKey]byte
	secret  []byte
}

// The names of our private keys.
var (
	staticName    = []byte("static")
	ephemeralName = []byte("ephemeral")
)

// handshake prepares Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s on this curve.
func (c *curve) handshake(config noise.Config) (*noise.HandshakeState, error) {
	config.CipherSuite = noise.NewCipherSuite(c, noise.CipherChaChaPoly, noise.HashBLAKE2s)
	config.Random = c.id.random
	config.Pattern = noise.HandshakeIK
	config.Prologue = prologue
	config.PresharedKeyPlacement = 2
	config.StaticKeypair = noise.DHKey{Private: staticName, Public: c.id.key[:]}
	return noise.NewHandshakeState(config)
}

// GenerateKeypair makes the ephemeral key pair.
func (c *curve) GenerateKeypair(random io.Reader) (noise.DHKey, error) {
	var private [sizeKey]byte
	defer clear(private[:])
	if _, err := io.ReadFull(random, private[:]); err != nil {
		return noise.DHKey{}, err
	}
	key, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		return noise.DHKey{}, err
	}
	c.ephemeral = key
	return noise.DHKey{Private: ephemeralName, Public: key.PublicKey().Bytes()}, nil
}

// DH returns the secret of one of our private keys, by name, and a public key.
func (c *curve) DH(private, public []byte) ([]byte, error) {
	for _, a := range c.agreed {
		if a.private == string(private) && bytes.Equal(a.public[:], public) {
			return a.secret, nil
		}
	}
	a := agreement{private: string(private), public: [sizeKey]byte(public)}
	key := c.ephemeral
	if a.private == string(staticName) {
		key = c.id.private
		a.secret = c.id.known(a.public)
	}
	if a.secret == nil {
		var err error
		if a.secret, err = agree(key, public); err != nil {
			return nil, err
		}
	}
	c.agreed = append(c.agreed, a)
	return a.secret, nil
}

func (*curve) DHLen() int     { return sizeKey }
func (*curve) DHName() string { return "25519" }

// known returns a copy of the secret know has computed, or nil.
func (id *identity) known(peer [sizeKey]byte) []byte {
	id.mu.RLock()
	defer id.mu.RUnlock()
	if secret := id.shared[peer]; secret != nil {
		return bytes.Clone(secret[:])
	}
	return nil
}

// agree multiplies. A public key of low order, which forces the secret to zero
// whatever the private key is, is refused as wireguard-go does.
func agree(private *ecdh.PrivateKey, public []byte) ([]byte, error) {
	key, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	secret, err := private.ECDH(key)
	if err != nil {
		return nil, errLowOrder // the one way for two keys of 32 bytes to fail
	}
	return secret, nil
}
