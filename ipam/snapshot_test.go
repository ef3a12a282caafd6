package ipam

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSnapshotsAreThoseOfTheVectorsByteForByte(t *testing.T) {
	for _, test := range []struct {
		file, kind string
		owners     [][2]string
	}{
		{"nodes.json", KindNode, [][2]string{{"node-c"}, {"leader"}, {"my-node-id"}, {"1"}, {"node-a"}, {"3"}, {"node-b"}, {"2"}}},
		{"services.json", KindService, [][2]string{{"svc-b", "node-2"}, {"svc-a", "node-2"}, {"svc-a", "node-1"}, {"svc-b", "node-1"}}},
	} {
		want, err := os.ReadFile("testdata/" + test.file)
		require.NoError(t, err)
		each(t, Config{Pools: []netip.Prefix{cluster}}, func(t *testing.T, b *bed) {
			for _, o := range test.owners {
				_, err := b.Assign(SubnetRequest{Pool: cluster, Owner: Owner{Kind: test.kind, ID: o[0]}, Node: o[1]})
				require.NoError(t, err)
			}
			_, err := b.Assign(SubnetRequest{Pool: cluster, Bits: 27, Owner: Owner{Kind: test.kind, ID: "of another size"}})
			require.NoError(t, err)
			got, err := b.Snapshot(test.kind, cluster, 28).MarshalJSON()
			require.NoError(t, err)
			require.Equal(t, string(want), string(got))
		})
		each(t, Config{}, func(t *testing.T, b *bed) {
			var s Snapshot
			require.NoError(t, json.Unmarshal(want, &s))
			require.Equal(t, test.kind, s.Kind)
			require.NoError(t, b.Restore(s))
			require.NoError(t, b.Restore(s), "again: nothing to do")
			require.Equal(t, s, b.Snapshot(test.kind, cluster, 28))
			for _, o := range test.owners {
				before, ok := b.Subnet(cluster, Owner{Kind: test.kind, ID: o[0]}, o[1])
				require.True(t, ok)
				again, err := b.Assign(SubnetRequest{Pool: cluster, Owner: Owner{Kind: test.kind, ID: o[0]}, Node: o[1]})
				require.NoError(t, err)
				require.Equal(t, before, again)
			}
		})
	}
}

func TestSnapshotsOfNothingAndOfAnyText(t *testing.T) {
	b, err := Snapshot{Kind: KindNode, Cluster: cluster6, Bits: 64}.MarshalJSON()
	require.NoError(t, err)
	require.Equal(t, `{"cluster_cidr":"fd00:200::/48","slice_prefix":64,"assigned":[]}`, string(b))
	_, err = Snapshot{Kind: "other"}.MarshalJSON()
	require.ErrorIs(t, err, ErrInvalid)

	s := Snapshot{Kind: KindService, Cluster: cluster, Bits: 28, Entries: []SnapshotEntry{
		{ID: "a\"\\/<>&\u2028é\x7f", Node: "\x00\b\t\n\v\f\r\x1f", Prefix: prefix("10.200.0.0/28")},
	}}
	b, err = s.MarshalJSON()
	require.NoError(t, err)
	require.Equal(t, `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assignments":[[["a\"\\/<>&`+"\u2028é\x7f"+
		`","\u0000\b\t\n\u000b\f\r\u001f"],"10.200.0.0/28"]]}`, string(b))
	var read Snapshot
	require.NoError(t, json.Unmarshal(b, &read))
	require.Equal(t, s, read)
}

func TestBadSnapshotsAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"two nodes with one slice":         `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assigned":[["a","10.200.0.16/28"],["b","10.200.0.16/28"]]}`,
		"one node twice":                   `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assigned":[["a","10.200.0.16/28"],["a","10.200.0.16/28"]]}`,
		"one node with two slices":         `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assigned":[["a","10.200.0.16/28"],["a","10.200.0.32/28"]]}`,
		"a misaligned slice":               `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assigned":[["a","10.200.0.17/28"]]}`,
		"a slice of another size":          `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assigned":[["a","10.200.0.0/27"]]}`,
		"a slice outside":                  `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assigned":[["a","10.201.0.0/28"]]}`,
		"a slice of the other family":      `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assigned":[["a","fd00::/28"]]}`,
		"slices as large as the cluster":   `{"cluster_cidr":"10.200.0.0/16","slice_prefix":16,"assigned":[]}`,
		"slices smaller than an address":   `{"cluster_cidr":"10.200.0.0/16","slice_prefix":33,"assigned":[]}`,
		"a node without a name":            `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assigned":[["","10.200.0.16/28"]]}`,
		"a cluster that is none":           `{"cluster_cidr":"10.200.0.0","slice_prefix":28,"assigned":[]}`,
		"no cluster":                       `{"slice_prefix":28,"assigned":[]}`,
		"no size":                          `{"cluster_cidr":"10.200.0.0/16","assigned":[]}`,
		"neither kind":                     `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28}`,
		"both kinds":                       `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assigned":[],"assignments":[]}`,
		"three strings":                    `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assigned":[["a","10.200.0.16/28","x"]]}`,
		"a pair that is an object":         `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assigned":[{}]}`,
		"a service without a node":         `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assignments":[[["a"],"10.200.0.16/28"]]}`,
		"a service without a subnet":       `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assignments":[[["a","b"]]]}`,
		"a service that is a string":       `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assignments":[["a","10.200.0.16/28"]]}`,
		"a service whose subnet is null":   `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assignments":[[["a","b"],null]]}`,
		"two services with one subnet":     `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assignments":[[["a","b"],"10.200.0.0/28"],[["a","c"],"10.200.0.0/28"]]}`,
		"what overlaps what is there":      `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assigned":[["ok","10.200.1.0/28"],["a","10.200.9.0/28"]]}`,
		"another slice of one that has it": `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assigned":[["there","10.200.1.0/28"]]}`,
		"a cluster within another":         `{"cluster_cidr":"10.200.0.0/17","slice_prefix":28,"assigned":[]}`,
		"text that is no UTF-8":            "{\"cluster_cidr\":\"10.200.0.0/16\",\"slice_prefix\":28,\"assigned\":[[\"\xff\",\"10.200.0.16/28\"]]}",
		"something after it":               `{"cluster_cidr":"10.200.0.0/16","slice_prefix":28,"assigned":[]}{}`,
		"nothing":                          ``,
	} {
		each(t, Config{Pools: []netip.Prefix{cluster}}, func(t *testing.T, b *bed) {
			_, err := b.AllocateAddr(addr("10.200.9.9"), container("host"))
			require.NoError(t, err)
			_, err = b.Assign(SubnetRequest{Pool: cluster, Owner: node("there"), Prefix: prefix("10.200.8.0/28")})
			require.NoError(t, err)
			before := contents(b.Authority)
			var s Snapshot
			err = json.Unmarshal([]byte(text), &s)
			if err == nil {
				err = b.Restore(s)
				require.ErrorContains(t, err, "ipam: restore a snapshot: ")
			}
			require.Error(t, err, name)
			requireSame(t, before, contents(b.Authority))
		})
	}
}

func TestAClusterWithHostBitsIsTaken(t *testing.T) {
	var s Snapshot
	require.NoError(t, json.Unmarshal([]byte(`{"cluster_cidr":"10.200.0.5/16","slice_prefix":28,"assigned":[["a","10.200.0.16/28"]],"more":1}`), &s))
	a, err := NewMemory(Config{})
	require.NoError(t, err)
	require.NoError(t, a.Restore(s))
	require.Equal(t, []netip.Prefix{cluster}, a.Pools())
}

// FuzzImport restores any bytes. What is taken in must be sound, and come out again
// as it went in.
func FuzzImport(f *testing.F) {
	for _, name := range []string{"nodes.json", "services.json"} {
		b, err := os.ReadFile("testdata/" + name)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Add([]byte(`{"cluster_cidr":"fd00:200::/48","slice_prefix":120,"assignments":[[["","\ud800"],"fd00:200::ff00/120"]]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s Snapshot
		if s.UnmarshalJSON(data) != nil {
			return
		}
		a, err := NewMemory(Config{})
		require.NoError(t, err)
		if a.Restore(s) != nil {
			require.Empty(t, contents(a))
			requireSound(t, a)
			return
		}
		requireSound(t, a)
		out := a.Snapshot(s.Kind, s.Cluster.Masked(), s.Bits)
		require.Len(t, out.Entries, len(s.Entries))
		b, err := out.MarshalJSON()
		require.NoError(t, err)
		require.True(t, json.Valid(b))
		again, err := NewMemory(Config{})
		require.NoError(t, err)
		var back Snapshot
		require.NoError(t, back.UnmarshalJSON(b))
		require.NoError(t, again.Restore(back))
		second, err := again.Snapshot(s.Kind, s.Cluster.Masked(), s.Bits).MarshalJSON()
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, second))
	})
}
