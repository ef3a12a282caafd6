package overlay

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
)

const (
	keySize     = 32
	keyTextSize = 44 // in base64
)

// keyText is the text form of all keys, that of wg(8). Strict refuses a last
// character whose unused bits are not zero, so that a key has one form.
var keyText = base64.StdEncoding.Strict()

// A PrivateKey is what a node has and nobody else. The zero value is no key.
//
// Printing one, with any verb of fmt that takes values or to a slog.Logger, yields
// "(private key)". MarshalText, and so encoding/json, yields the key itself: it is
// for files that only their owner reads. What holds a key has to take care by
// itself: fmt prints the bytes of a key in an unexported field, and slog's JSON
// handler marshals a struct together with the keys in it.
type PrivateKey [keySize]byte

// A PublicKey is what peers know a node by. The zero value is no key.
//
// It prints, and is in text and JSON, as standard base64. Public keys are not
// secret: compare them with ==.
type PublicKey [keySize]byte

// A PresharedKey is a secret that two nodes share besides their key pairs, so
// that what they say today stays secret from a quantum computer of tomorrow. The
// zero value is no key.
//
// It prints as "(preshared key)"; what is said of PrivateKey is true of it.
type PresharedKey [keySize]byte

const (
	kindPrivate   = "private key"
	kindPublic    = "public key"
	kindPreshared = "preshared key"
)

// A KeyError is returned for a text that is not a key. It does not hold the text,
// which may be a secret.
type KeyError struct {
	Kind string // "private key", "public key" or "preshared key"
	Why  string
}

func (e *KeyError) Error() string { return "overlay: " + e.Kind + " " + e.Why }

// GeneratePrivateKey makes a new private key, clamped as wg genkey does. It fails
// only when crypto/rand.Reader does.
func GeneratePrivateKey() (PrivateKey, error) {
	k, err := randomKey(kindPrivate)
	if err != nil {
		return PrivateKey{}, err
	}
	k[0] &= 248 // RFC 7748, section 5
	k[31] = k[31]&127 | 64
	return k, nil
}

// GeneratePresharedKey makes a new preshared key. It fails only when
// crypto/rand.Reader does.
func GeneratePresharedKey() (PresharedKey, error) {
	k, err := randomKey(kindPreshared)
	return k, err
}

func randomKey(kind string) (k [keySize]byte, err error) {
	if _, err := io.ReadFull(rand.Reader, k[:]); err != nil {
		return [keySize]byte{}, fmt.Errorf("overlay: %s: %w", kind, err)
	}
	return k, nil
}

// ParsePrivateKey reads a private key from standard base64, as wg genkey writes
// it but without the line's end. The error is a *KeyError.
func ParsePrivateKey(s string) (PrivateKey, error) {
	k, err := parseKey(kindPrivate, s)
	return k, err
}

// ParsePublicKey reads a public key from standard base64, as wg pubkey writes it
// but without the line's end. The error is a *KeyError.
func ParsePublicKey(s string) (PublicKey, error) {
	k, err := parseKey(kindPublic, s)
	return k, err
}

// ParsePresharedKey reads a preshared key from standard base64, as wg genpsk
// writes it but without the line's end. The error is a *KeyError.
func ParsePresharedKey(s string) (PresharedKey, error) {
	k, err := parseKey(kindPreshared, s)
	return k, err
}

func parseKey(kind, s string) (k [keySize]byte, err error) {
	const want = "want standard base64 of 32 bytes, 44 characters"
	refuse := func(format string, args ...any) ([keySize]byte, error) {
		return [keySize]byte{}, &KeyError{Kind: kind, Why: fmt.Sprintf(format, args...) + "; " + want}
	}
	if s == "" {
		return refuse("is empty")
	}
	if len(s) == hex.EncodedLen(keySize) {
		if _, err := hex.DecodeString(s); err == nil {
			return refuse("is in hexadecimal")
		}
	}
	if len(s) != keyTextSize {
		return refuse("has %d characters", len(s))
	}
	// The size is checked, for the decoder passes over line breaks.
	var b [keySize + 1]byte
	if n, err := keyText.Decode(b[:], []byte(s)); err != nil || n != keySize {
		return refuse("is not base64")
	}
	return [keySize]byte(b[:keySize]), nil
}

// Public returns the public key of k. It is zero where k is, and where the
// program is not allowed X25519 (GODEBUG=fips140=only).
func (k PrivateKey) Public() PublicKey {
	if k.IsZero() {
		return PublicKey{}
	}
	pair, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		return PublicKey{}
	}
	return PublicKey(pair.PublicKey().Bytes())
}

// IsZero reports whether k is no key.
func (k PrivateKey) IsZero() bool { return k.Equal(PrivateKey{}) }

// IsZero reports whether k is no key.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// IsZero reports whether k is no key.
func (k PresharedKey) IsZero() bool { return k.Equal(PresharedKey{}) }

// Equal reports, in constant time, whether two keys are the same.
func (k PrivateKey) Equal(other PrivateKey) bool {
	return subtle.ConstantTimeCompare(k[:], other[:]) == 1
}

// Equal reports, in constant time, whether two keys are the same.
func (k PresharedKey) Equal(other PresharedKey) bool {
	return subtle.ConstantTimeCompare(k[:], other[:]) == 1
}

// String returns "(private key)".
func (k PrivateKey) String() string { return "(" + kindPrivate + ")" }

// String returns the key in standard base64.
func (k PublicKey) String() string { return keyText.EncodeToString(k[:]) }

// String returns "(preshared key)".
func (k PresharedKey) String() string { return "(" + kindPreshared + ")" }

// Format writes "(private key)", whatever verb fmt asks it for.
func (k PrivateKey) Format(f fmt.State, verb rune) { io.WriteString(f, k.String()) }

// Format writes "(preshared key)", whatever verb fmt asks it for.
func (k PresharedKey) Format(f fmt.State, verb rune) { io.WriteString(f, k.String()) }

// LogValue makes slog write "(private key)".
func (k PrivateKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// LogValue makes slog write "(preshared key)".
func (k PresharedKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText returns the key itself in standard base64, a secret.
func (k PrivateKey) MarshalText() ([]byte, error) { return keyText.AppendEncode(nil, k[:]), nil }

// MarshalText returns the key in standard base64.
func (k PublicKey) MarshalText() ([]byte, error) { return keyText.AppendEncode(nil, k[:]), nil }

// MarshalText returns the key itself in standard base64, a secret.
func (k PresharedKey) MarshalText() ([]byte, error) { return keyText.AppendEncode(nil, k[:]), nil }

// UnmarshalText is ParsePrivateKey; k is as it was when that fails.
func (k *PrivateKey) UnmarshalText(text []byte) error {
	return unmarshalKey(kindPrivate, (*[keySize]byte)(k), text)
}

// UnmarshalText is ParsePublicKey; k is as it was when that fails.
func (k *PublicKey) UnmarshalText(text []byte) error {
	return unmarshalKey(kindPublic, (*[keySize]byte)(k), text)
}

// UnmarshalText is ParsePresharedKey; k is as it was when that fails.
func (k *PresharedKey) UnmarshalText(text []byte) error {
	return unmarshalKey(kindPreshared, (*[keySize]byte)(k), text)
}

func unmarshalKey(kind string, k *[keySize]byte, text []byte) error {
	parsed, err := parseKey(kind, string(text))
	if err == nil {
		*k = parsed
	}
	return err
}
