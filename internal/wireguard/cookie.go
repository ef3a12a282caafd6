package wireguard

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
)

// MACs and cookies, whitepaper sections 5.3, 5.4.4 and 5.4.7. MAC1 proves that
// the sender knows the receiver's public key, and is always asked for. MAC2
// proves that it can receive at its source address, and is asked for under load:
// its key is a cookie, which the receiver sends to that address.

// cookieLifetime is how long a cookie secret makes cookies, and how long a cookie
// is used after it came.
const cookieLifetime = 120 * time.Second

// cookieKeys are what both sides derive of the receiver's public key.
type cookieKeys struct {
	mac1   [blake2s.Size]byte
	cookie [chacha20poly1305.KeySize]byte
}

func newCookieKeys(receiver [sizeKey]byte) cookieKeys {
	return cookieKeys{
		mac1:   blake2s.Sum256(append([]byte("mac1----"), receiver[:]...)),
		cookie: blake2s.Sum256(append([]byte("cookie--"), receiver[:]...)),
	}
}

// mac is BLAKE2s with a key of 1 to 32 bytes, the whitepaper's Mac.
func mac(key []byte, parts ...[]byte) (sum [sizeMAC]byte) {
	h, err := blake2s.New128(key)
	if err != nil {
		panic(err) // the key is of the wrong length: ours to get right
	}
	for _, part := range parts {
		h.Write(part)
	}
	h.Sum(sum[:0])
	return sum
}

// A cookieChecker is the receiving side of the MACs. Its methods may be called
// at once.
type cookieChecker struct {
	keys cookieKeys

	mu     sync.Mutex
	secret [blake2s.Size]byte
	made   time.Time // of secret; zero: there is none
}

func newCookieChecker(public [sizeKey]byte) *cookieChecker {
	return &cookieChecker{keys: newCookieKeys(public)}
}

// checkMAC1 reports whether the sender of an initiation or a response knows our
// public key.
func (c *cookieChecker) checkMAC1(msg []byte) bool {
	if len(msg) < sizeMACs {
		return false
	}
	body, mac1, _, _ := macParts(msg)
	want := mac(c.keys.mac1[:], body)
	return subtle.ConstantTimeCompare(want[:], mac1) == 1
}

// checkMAC2 reports whether the sender of an initiation or a response has
// received our cookie at the address it sends from.
func (c *cookieChecker) checkMAC2(msg []byte, src netip.AddrPort) bool {
	if len(msg) < sizeMACs {
		return false
	}
	cookie, ok := c.cookie(src, false)
	if !ok {
		return false
	}
	_, _, withMAC1, mac2 := macParts(msg)
	want := mac(cookie[:], withMAC1)
	return subtle.ConstantTimeCompare(want[:], mac2) == 1
}

// reply answers an initiation or a response, whose MAC1 is right and whose MAC2
// is not, with a cookie for the address it came from. sender is the index in it.
func (c *cookieChecker) reply(msg []byte, sender uint32, src netip.AddrPort) (reply [sizeCookie]byte) {
	cookie, _ := c.cookie(src, true)
	_, mac1, _, _ := macParts(msg)
	putCookieHeader(reply[:], sender)
	nonce, sealed := cookieParts(reply[:])
	rand.Read(nonce) // never fails
	aead, err := chacha20poly1305.NewX(c.keys.cookie[:])
	if err != nil {
		panic(err)
	}
	aead.Seal(sealed[:0], nonce, cookie[:], mac1)
	return reply
}

// cookie returns the cookie of a source address. Where there is no secret young
// enough to make it of, a new one is made, if asked to.
func (c *cookieChecker) cookie(src netip.AddrPort, renew bool) (cookie [sizeMAC]byte, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made.IsZero() || time.Since(c.made) > cookieLifetime {
		if !renew {
			return cookie, false
		}
		rand.Read(c.secret[:]) // never fails
		c.made = time.Now()
	}
	addr := src.Addr().As16() // the same for an IPv4 address and its mapped form
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], src.Port())
	return mac(c.secret[:], addr[:], port[:]), true
}

// wipe forgets the secret; cookies made of it are worth nothing any more.
func (c *cookieChecker) wipe() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secret, c.made = [blake2s.Size]byte{}, time.Time{}
}

// A cookieJar is the sending side of the MACs towards one peer. Its methods may
// be called at once.
type cookieJar struct {
	keys cookieKeys

	mu       sync.Mutex
	lastMAC1 [sizeMAC]byte // of the message a cookie may answer
	waiting  bool          // lastMAC1 is set, and unanswered
	cookie   [sizeMAC]byte
	came     time.Time // when cookie did; zero: there is none
}

func newCookieJar(peer [sizeKey]byte) *cookieJar {
	return &cookieJar{keys: newCookieKeys(peer)}
}

// addMACs sets MAC1 of an initiation or a response, and MAC2 while there is a
// cookie.
func (j *cookieJar) addMACs(msg []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	body, mac1, withMAC1, mac2 := macParts(msg)
	j.lastMAC1 = mac(j.keys.mac1[:], body)
	j.waiting = true
	copy(mac1, j.lastMAC1[:])
	if j.came.IsZero() || time.Since(j.came) > cookieLifetime {
		clear(mac2)
		return
	}
	sum := mac(j.cookie[:], withMAC1)
	copy(mac2, sum[:])
}

// consumeReply takes the cookie out of a cookie message, and reports whether it
// answers the last message that was given its MACs. Each is answered once, as in
// the kernel's, so that a replay does not make a cookie younger.
func (j *cookieJar) consumeReply(msg []byte) bool {
	if messageType(msg) != typeCookie {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.waiting {
		return false
	}
	aead, err := chacha20poly1305.NewX(j.keys.cookie[:])
	if err != nil {
		panic(err)
	}
	nonce, sealed := cookieParts(msg)
	var cookie [sizeMAC]byte
	if _, err := aead.Open(cookie[:0], nonce, sealed, j.lastMAC1[:]); err != nil {
		return false
	}
	j.cookie, j.came, j.waiting = cookie, time.Now(), false
	return true
}

// wipe forgets the cookie.
func (j *cookieJar) wipe() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.cookie, j.came = [sizeMAC]byte{}, time.Time{}
	j.lastMAC1, j.waiting = [sizeMAC]byte{}, false
}
