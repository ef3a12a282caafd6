package wire_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/wire"
)

func lines(t testing.TB, file string) []string {
	data, err := os.ReadFile("testdata/" + file)
	require.NoError(t, err)
	all := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	for i := range all {
		all[i] = strings.TrimSuffix(all[i], "\r")
	}
	return all
}

func marshal(t testing.TB, v any) string {
	data, err := wire.Marshal(v)
	require.NoError(t, err)
	return string(data)
}

func TestEveryFrameOfTheContractComesBackByteForByte(t *testing.T) {
	frames := lines(t, "frames.jsonl")
	require.Len(t, frames, 48)
	for _, line := range frames {
		f, err := wire.Decode([]byte(line))
		require.NoError(t, err, line)
		require.Equal(t, line, marshal(t, f))
	}
}

// contractOnly is the frame without the fields the contract does not have. Those
// who wrote the vectors ignored such fields; this package knows some of them.
func contractOnly(f wire.Frame) wire.Frame {
	r, ok := f.(wire.ResponseFrame)
	if !ok {
		return f
	}
	switch res := r.Response.(type) {
	case wire.Err:
		r.Response = wire.Err{Message: res.Message}
	case wire.Attached:
		r.Response = wire.Attached{IP: res.IP, NamespaceGUID: res.NamespaceGUID}
	}
	return r
}

func TestTheContractSaysWhatIsTakenAndWhatRefused(t *testing.T) {
	all := lines(t, "decode.tsv")
	require.Len(t, all, 46)
	for _, line := range all {
		columns := strings.Split(line, "\t")
		require.Len(t, columns, 3, line)
		f, err := wire.Decode([]byte(columns[1]))
		switch columns[0] {
		case "accept":
			require.NoError(t, err, line)
			require.Equal(t, columns[2], marshal(t, contractOnly(f)))
		case "reject":
			require.Error(t, err, line)
			var refused *wire.DecodeError
			require.ErrorAs(t, err, &refused)
			require.NotEmpty(t, refused.Code)
		default:
			t.Fatalf("neither accept nor reject: %s", line)
		}
	}
}

func TestFieldsWeKnowAndTheContractDoesNotComeBackToo(t *testing.T) {
	for _, line := range []string{
		`{"frame":"response","id":1,"response":{"result":"err","message":"m","code":"exhausted","retryable":true,"field":"service"}}`,
		`{"frame":"response","id":1,"response":{"result":"attached","ip":"10.0.0.2","gateway":"10.0.0.1","prefix_len":28,"mtu":1420,"interface":"eth0","global_ip":"10.200.7.3","dns_server":"10.0.0.1","addresses":["10.0.0.2/28","fd00::2/120"]}}`,
		`{"frame":"request","id":1,"request":{"op":"register_dns","name":"web","ip":"10.0.0.2","mode":"add"}}`,
		`{"frame":"request","id":1,"request":{"op":"setup_service_overlay","service":"web","mode":"auto","subnet":"10.0.0.0/28"}}`,
		`{"frame":"request","id":1,"request":{"op":"attach_container","handle":{"platform":"guest_managed","id":"vm-1"},"service":"web","join_global":false,"public_key":"k"}}`,
		`{"frame":"request","id":1,"request":{"op":"hello","client":"test","versions":[1],"features":["pipelining"]}}`,
		`{"frame":"response","id":1,"response":{"result":"hello","version":1,"boot_id":"b","build":"v1","platform":"linux/amd64","mode":"tun"}}`,
		`{"frame":"request","id":1,"request":{"op":"subscribe_events"}}`,
		`{"frame":"request","id":1,"request":{"op":"list_peers"}}`,
		`{"frame":"request","id":1,"request":{"op":"set_peers","peers":[],"scope":{"scope":"global"}}}`,
		`{"frame":"event","event":"attachment_changed","handle":{"platform":"linux_pid","pid":7},"service":"web","ip":"10.0.0.2","attached":true}`,
	} {
		f, err := wire.Decode([]byte(line))
		require.NoError(t, err, line)
		require.Equal(t, line, marshal(t, f))
	}
}
