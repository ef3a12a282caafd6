package state

import (
	"net/netip"
	"path/filepath"
	"reflect"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/testchild"
	"github.com/overlayd/overlayd/overlay"
)

func TestMain(m *testing.M) {
	helpers.Main() // does not return in a process a test started
	goleak.VerifyTestMain(m)
}

// helpers are what a process that a test starts can do.
var helpers = testchild.Helpers{}

func newDir(t testing.TB) string { return filepath.Join(t.TempDir(), "data") }

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func load(t testing.TB, s *Store) State {
	t.Helper()
	st, err := s.Load()
	require.NoError(t, err)
	return st
}

func update(t testing.TB, s *Store, fn func(tx *Tx)) {
	t.Helper()
	require.NoError(t, s.Update(func(tx *Tx) error { fn(tx); return nil }))
}

type writeAt = func(b []byte, off int64) (int, error)

// hook puts a function before every write of a database to its file, through the
// field bbolt keeps for its own tests.
func hook(db *bolt.DB, with func(next writeAt, b []byte, off int64) (int, error)) (unhook func()) {
	field := reflect.ValueOf(db).Elem().FieldByName("ops").FieldByName("writeAt")
	at := (*writeAt)(unsafe.Pointer(field.UnsafeAddr()))
	next := *at
	*at = func(b []byte, off int64) (int, error) { return with(next, b, off) }
	return func() { *at = next }
}

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
)

// sample is a state in which every field has a value; what Load gives has it in
// the order of the keys.
func sample(tb testing.TB) State {
	tb.Helper()
	key, err := overlay.GeneratePrivateKey()
	require.NoError(tb, err)
	prefixes := []netip.Prefix{prefix("10.200.1.1/16"), prefix("fd00:200::1/48")}
	return State{
		Node: Node{
			Installation: "494bffe3",
			ID:           1<<64 - 1, ClusterKey: key.Public().String(), DNSServer: "10.200.0.1", DNSDomain: "overlay.internal",
			Global: &Global{
				Deployment: "prod", InstanceID: "i-1", Cluster: prefixes, Slice: prefixes, Port: 51420, NAT: true,
				Addrs: prefixes, Interface: "ovl-prod-i-1-g",
			},
			Sysctls: map[string]string{"net.ipv4.ip_forward": "0"},
		},
		Services: []Service{
			{Name: "db", Mode: wire.ModeDedicated, Bridge: "ovl-db-b", Subnets: prefixes, Interface: "ovl-db-d", PrivateKey: key, Port: 51421},
			{Name: "web", Mode: wire.ModeShared, Bridge: "ovl-web-b", Subnets: prefixes[:1]},
		},
		Peers: []Peer{
			{PeerSpec: wire.PeerSpec{PublicKey: "A", Endpoint: "host:1", AllowedIPs: "10.0.0.0/8,fd00::/8", Keepalive: 25}},
			{Service: "db", PeerSpec: wire.PeerSpec{PublicKey: "A", Endpoint: "host:2"}},
		},
		Attachments: []Attachment{
			{
				ID: "a", PID: 1<<32 - 1, Service: "web", JoinGlobal: true, Addrs: prefixes, Global: prefixes, DNSServer: addr("10.200.0.1"),
				DNSDomain: "x", Since: 1 << 60, Boot: "boot", Namespace: 1<<64 - 1, Link: "ovl-s", GlobalLink: "ovl-j",
			},
			{ID: "b", Guest: "vm <1>", Service: "db", Addrs: prefixes[:1], PublicKey: key.Public(), PrivateKey: key},
		},
		Records: []Record{{"web", addr("10.200.1.2")}, {"web", addr("fd00:200::2")}},
		Ports: []wire.PublishedPort{
			{Proto: wire.TCP, HostPort: 443, IP: addr("10.200.1.2"), TargetPort: 8443},
			{Proto: wire.UDP, HostIP: addr("192.0.2.1"), HostPort: 53, IP: addr("10.200.1.2"), TargetPort: 5353},
		},
	}
}

// putAll stores all of a state.
func putAll(tx *Tx, st State) {
	tx.SetNode(st.Node)
	for _, s := range st.Services {
		tx.PutService(s)
	}
	for _, p := range st.Peers {
		tx.PutPeer(p)
	}
	for _, a := range st.Attachments {
		tx.PutAttachment(a)
	}
	for _, r := range st.Records {
		tx.PutRecord(r)
	}
	for _, p := range st.Ports {
		tx.PutPort(p)
	}
}
