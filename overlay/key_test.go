package overlay_test

import (
	"bytes"
	"crypto/rand"
	"encoding"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/overlay"
)

// The keys of Alice in RFC 7748, section 6.1.
const (
	alicePrivateHex = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
	alicePrivate    = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
	alicePublic     = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
)

func TestPublicKeyOfAPrivateKey(t *testing.T) {
	private, err := overlay.ParsePrivateKey(alicePrivate)
	require.NoError(t, err)
	require.Equal(t, alicePublic, private.Public().String())
	require.True(t, overlay.PrivateKey{}.Public().IsZero(), "no key has no public key")
}

func TestGeneratedPrivateKeysAreClamped(t *testing.T) {
	seen := make(map[overlay.PrivateKey]bool)
	for range 64 {
		k, err := overlay.GeneratePrivateKey()
		require.NoError(t, err)
		require.Zero(t, k[0]&7)
		require.Equal(t, byte(64), k[31]&192)
		require.False(t, seen[k])
		seen[k] = true
	}
}

func TestGeneratedPresharedKeysDiffer(t *testing.T) {
	a, err := overlay.GeneratePresharedKey()
	require.NoError(t, err)
	b, err := overlay.GeneratePresharedKey()
	require.NoError(t, err)
	require.False(t, a.IsZero())
	require.False(t, a.Equal(b))
}

type failingReader struct{}

var errNoRandom = errors.New("no random bytes")

func (failingReader) Read([]byte) (int, error) { return 0, errNoRandom }

func TestNoKeyIsMadeWithoutRandomBytes(t *testing.T) {
	defer func(r interface{ Read([]byte) (int, error) }) { rand.Reader = r }(rand.Reader)
	rand.Reader = failingReader{}
	private, err := overlay.GeneratePrivateKey()
	require.ErrorIs(t, err, errNoRandom)
	require.True(t, private.IsZero())
	preshared, err := overlay.GeneratePresharedKey()
	require.ErrorIs(t, err, errNoRandom)
	require.True(t, preshared.IsZero())
}

// kinds are the three kinds of key, parsed and marshalled.
var kinds = []struct {
	kind  string
	parse func(s string) (encoding.TextMarshaler, error)
	into  func(text string) (encoding.TextMarshaler, error) // by UnmarshalText, of a key that is set
}{
	{"private key",
		func(s string) (encoding.TextMarshaler, error) { k, err := overlay.ParsePrivateKey(s); return k, err },
		func(s string) (encoding.TextMarshaler, error) {
			k := overlay.PrivateKey{1}
			err := k.UnmarshalText([]byte(s))
			return k, err
		}},
	{"public key",
		func(s string) (encoding.TextMarshaler, error) { k, err := overlay.ParsePublicKey(s); return k, err },
		func(s string) (encoding.TextMarshaler, error) {
			k := overlay.PublicKey{1}
			err := k.UnmarshalText([]byte(s))
			return k, err
		}},
	{"preshared key",
		func(s string) (encoding.TextMarshaler, error) { k, err := overlay.ParsePresharedKey(s); return k, err },
		func(s string) (encoding.TextMarshaler, error) {
			k := overlay.PresharedKey{1}
			err := k.UnmarshalText([]byte(s))
			return k, err
		}},
}

func text(t testing.TB, k encoding.TextMarshaler) string {
	t.Helper()
	b, err := k.MarshalText()
	require.NoError(t, err)
	return string(b)
}

func TestKeysAreReadAsTheyWereWritten(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.kind, func(t *testing.T) {
			for _, s := range []string{alicePrivate, alicePublic, base64.StdEncoding.EncodeToString(make([]byte, 32))} {
				parsed, err := k.parse(s)
				require.NoError(t, err)
				require.Equal(t, s, text(t, parsed))
				unmarshalled, err := k.into(s)
				require.NoError(t, err)
				require.Equal(t, parsed, unmarshalled)
			}
		})
	}
}

func TestTextThatIsNoKeyIsRefused(t *testing.T) {
	of := func(n int) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xfb}, n)) }
	for _, test := range []struct {
		name, text, why string
	}{
		{"nothing", "", "is empty"},
		{"hexadecimal", alicePrivateHex, "is in hexadecimal"},
		{"hexadecimal in capitals", strings.ToUpper(alicePrivateHex), "is in hexadecimal"},
		{"31 bytes", of(31), "is not base64"},
		{"30 bytes", of(30), "has 40 characters"},
		{"33 bytes", of(33), "is not base64"},
		{"48 bytes", of(48), "has 64 characters"},
		{"a line's end", alicePrivate + "\n", "has 45 characters"},
		{"a line's end in place of padding", alicePrivate[:43] + "\n", "is not base64"},
		{"a space before", " " + alicePrivate, "has 45 characters"},
		{"no padding", alicePrivate[:43], "has 43 characters"},
		{"the alphabet for URLs", base64.URLEncoding.EncodeToString(bytes.Repeat([]byte{0xfb}, 32)), "is not base64"},
		{"unused bits that are set", alicePrivate[:42] + "p=", "is not base64"},
		{"other characters", strings.Repeat("?", 43) + "=", "is not base64"},
		{"a very long text", strings.Repeat("A", 1<<20), "has 1048576 characters"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, k := range kinds {
				parsed, err := k.parse(test.text)
				var wrong *overlay.KeyError
				require.ErrorAs(t, err, &wrong)
				require.Equal(t, k.kind, wrong.Kind)
				require.Equal(t, "overlay: "+k.kind+" "+test.why+"; want standard base64 of 32 bytes, 44 characters", err.Error())
				require.Equal(t, base64.StdEncoding.EncodeToString(make([]byte, 32)), text(t, parsed), "a key comes with the error")

				kept, err := k.into(test.text)
				require.ErrorAs(t, err, &wrong)
				require.Equal(t, byte(1), mustDecode(t, text(t, kept))[0], "a failure changes the key")
			}
		})
	}
}

func mustDecode(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	require.NoError(t, err)
	return b
}

type keys struct {
	Private   overlay.PrivateKey
	Public    overlay.PublicKey
	Preshared overlay.PresharedKey `json:",omitzero"`
}

func aliceKeys(t testing.TB) keys {
	t.Helper()
	private, err := overlay.ParsePrivateKey(alicePrivate)
	require.NoError(t, err)
	preshared, err := overlay.ParsePresharedKey(alicePrivate)
	require.NoError(t, err)
	return keys{private, private.Public(), preshared}
}

func TestKeysInJSON(t *testing.T) {
	k := aliceKeys(t)
	b, err := json.Marshal(k)
	require.NoError(t, err)
	require.JSONEq(t, `{"Private":"`+alicePrivate+`","Public":"`+alicePublic+`","Preshared":"`+alicePrivate+`"}`, string(b))
	var back keys
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, k, back)

	k.Preshared = overlay.PresharedKey{}
	b, err = json.Marshal(k)
	require.NoError(t, err)
	require.NotContains(t, string(b), "Preshared")

	b, err = json.Marshal(map[overlay.PublicKey]int{k.Public: 1})
	require.NoError(t, err)
	require.JSONEq(t, `{"`+alicePublic+`":1}`, string(b))

	var wrong *overlay.KeyError
	require.ErrorAs(t, json.Unmarshal([]byte(`{"Private":"`+alicePrivateHex+`"}`), &back), &wrong)
	require.Equal(t, "private key", wrong.Kind)
	require.NotContains(t, wrong.Error(), alicePrivateHex)
}

// requireNoSecret fails when out has the key of alicePrivate in it, in any form
// fmt gives bytes.
func requireNoSecret(t *testing.T, k keys, out string) {
	t.Helper()
	secret := k.Private[4:12]
	decimal := strings.Trim(fmt.Sprint(secret), "[]")
	for _, form := range []string{
		alicePrivate[8:20], string(secret), hex.EncodeToString(secret), decimal, strings.ReplaceAll(decimal, " ", ", "),
		strings.Trim(fmt.Sprintf("%#v", secret), "[]byte{}"), strings.Trim(fmt.Sprintf("% X", secret), " "),
		strings.Trim(fmt.Sprintf("%o", secret), "[]"), strings.Trim(fmt.Sprintf("%b", secret), "[]"),
	} {
		require.NotContains(t, strings.ToLower(out), strings.ToLower(form))
	}
}

func TestSecretKeysAreNotPrinted(t *testing.T) {
	k := aliceKeys(t)
	for _, verb := range []string{
		"%v", "%+v", "%#v", "%s", "%q", "%+q", "%#q", "%x", "% x", "%#x", "%X", "%d", "%o", "%b", "%c", "%U", "%t", "%e", "%08v", "%-50s", "%.3s", "%z",
	} {
		t.Run(verb, func(t *testing.T) {
			require.Equal(t, "(private key)", fmt.Sprintf(verb, k.Private))
			require.Equal(t, "(private key)", fmt.Sprintf(verb, &k.Private))
			require.Equal(t, "(preshared key)", fmt.Sprintf(verb, k.Preshared))
			require.Equal(t, "(preshared key)", fmt.Sprintf(verb, &k.Preshared))
			for _, holder := range []any{
				k, &k, []overlay.PrivateKey{k.Private}, map[string]overlay.PresharedKey{"": k.Preshared}, any(k.Private),
			} {
				requireNoSecret(t, k, fmt.Sprintf(verb, holder))
			}
		})
	}
	require.Equal(t, "(private key)", fmt.Sprint(k.Private))
	require.Equal(t, "(private key)", k.Private.String())
	require.Equal(t, "(preshared key)", k.Preshared.String())
	requireNoSecret(t, k, fmt.Errorf("with %v and %w", k.Private, errNoRandom).Error())
}

func TestSecretKeysAreNotLogged(t *testing.T) {
	k := aliceKeys(t)
	for name, handler := range map[string]func(b *bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			slog.New(handler(&b)).With("with", k.Private).WithGroup("g").
				Info("m", "private", k.Private, "pointer", &k.Private, "preshared", k.Preshared, "public", k.Public, slog.Group("h", "k", k.Preshared))
			requireNoSecret(t, k, b.String())
			require.Equal(t, 3, strings.Count(b.String(), "(private key)"), b.String())
			require.Equal(t, 2, strings.Count(b.String(), "(preshared key)"), b.String())
			require.Contains(t, b.String(), alicePublic)
		})
	}
}

func TestPublicKeysPrintAsBase64(t *testing.T) {
	k := aliceKeys(t)
	require.Equal(t, alicePublic, fmt.Sprint(k.Public))
	require.Equal(t, alicePublic, fmt.Sprintf("%v", k.Public))
	require.Equal(t, `"`+alicePublic+`"`, fmt.Sprintf("%q", k.Public))
	require.Contains(t, fmt.Sprintf("%+v", k), alicePublic)
}

func TestKeysCompare(t *testing.T) {
	k := aliceKeys(t)
	for bit := range 256 {
		private, preshared := k.Private, k.Preshared
		require.True(t, k.Private.Equal(private))
		require.True(t, k.Preshared.Equal(preshared))
		private[bit/8] ^= 1 << (bit % 8)
		preshared[bit/8] ^= 1 << (bit % 8)
		require.False(t, k.Private.Equal(private))
		require.False(t, k.Preshared.Equal(preshared))

		var one [32]byte
		one[bit/8] = 1 << (bit % 8)
		require.False(t, overlay.PrivateKey(one).IsZero())
		require.False(t, overlay.PublicKey(one).IsZero())
		require.False(t, overlay.PresharedKey(one).IsZero())
	}
	require.True(t, overlay.PrivateKey{}.IsZero())
	require.True(t, overlay.PublicKey{}.IsZero())
	require.True(t, overlay.PresharedKey{}.IsZero())
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{alicePrivate, alicePublic, alicePrivateHex, "", alicePrivate + "\n", strings.Repeat("=", 44)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, k := range kinds {
			parsed, err := k.parse(s)
			if err == nil {
				require.Equal(t, s, text(t, parsed), "a key has one form")
				continue
			}
			var wrong *overlay.KeyError
			require.ErrorAs(t, err, &wrong)
			if len(s) >= 43 { // shorter ones may be words of the message
				require.NotContains(t, err.Error(), s)
			}
		}
	})
}
