package dnsd

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGetent has the C library resolve names through a real resolv.conf. It runs
// itself in network and mount namespaces of its own, where it may bind port 53
// and put files in /etc.
func TestGetent(t *testing.T) {
	const child = "DNSD_TEST_NAMESPACE"
	if os.Geteuid() != 0 {
		t.Skip("making namespaces needs root")
	}
	getent, err := exec.LookPath("getent")
	if err != nil {
		t.Skip("getent is not installed")
	}
	ip, err := exec.LookPath("ip")
	if err != nil {
		t.Skip("ip (iproute2) is not installed")
	}
	if os.Getenv(child) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestGetent$", "-test.v")
		cmd.Env = append(os.Environ(), child+"="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		if err != nil && strings.Contains(err.Error(), "operation not permitted") {
			t.Skip("the system allows no namespaces: ", err)
		}
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- PASS: TestGetent")
		return
	}

	require.NoError(t, syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	for path, text := range map[string]string{
		"/etc/resolv.conf":   "nameserver 127.0.0.1\nsearch overlay.internal\noptions timeout:2 attempts:1\n",
		"/etc/nsswitch.conf": "hosts: dns\n",
	} {
		if _, err := os.Stat(path); os.IsNotExist(err) {
			continue // the C library then does without
		}
		file := filepath.Join(os.Getenv(child), filepath.Base(path))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		require.NoError(t, syscall.Mount(file, path, "", syscall.MS_BIND, ""))
	}
	for _, args := range []string{
		"link set lo up",
		// The C library asks for addresses of families it has an address of.
		"addr add 10.200.0.1/32 dev lo",
		"addr add fd00:200::1/128 dev lo nodad",
	} {
		out, err := exec.Command(ip, strings.Fields(args)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}

	z := testZone(t)
	require.NoError(t, z.Update(func(tx *Tx) error {
		for i := range 100 { // no EDNS: the C library comes back over TCP
			if err := tx.Add(Record{Name: "hundred", Data: Address(netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}))}); err != nil {
				return err
			}
		}
		return nil
	}))
	s := testServer(t, Config{Zones: []*Zone{z}})
	listen(t, s, "127.0.0.1:53")
	for _, c := range []struct {
		args string
		says []string // none: not found
	}{
		{"ahostsv4 web.overlay.internal", []string{"10.200.3.4 STREAM web.overlay.internal"}},
		{"ahostsv6 web.overlay.internal", []string{"fd00:200::4 STREAM web.overlay.internal"}},
		{"ahosts web", []string{"10.200.3.4", "fd00:200::4"}},
		{"ahostsv4 www", []string{"10.200.3.4", "web.overlay.internal"}},
		{"hosts 10.200.3.4", []string{"web.overlay.internal"}},
		{"hosts fd00:200::4", []string{"web.overlay.internal"}},
		{"ahostsv4 v4", []string{"10.200.3.5"}},
		{"ahostsv4 x.wild.overlay.internal", []string{"10.200.9.9"}},
		{"ahostsv4 hundred", []string{"10.9.0.0 ", "10.9.0.99 "}},
		{"ahosts nope.overlay.internal", nil},
		{"ahosts empty.overlay.internal", nil},
		{"hosts 10.200.99.99", nil},
	} {
		t.Run(c.args, func(t *testing.T) {
			out, err := exec.Command(getent, strings.Fields(c.args)...).CombinedOutput()
			if c.says == nil {
				require.Error(t, err)
				require.Empty(t, string(out))
				return
			}
			require.NoError(t, err, "%s", out)
			text := strings.Join(strings.Fields(string(out)), " ") + " "
			for _, says := range c.says {
				require.Contains(t, text, says)
			}
		})
	}
	require.Positive(t, s.Stats().TCP)
}
