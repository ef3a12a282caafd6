package wire_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/wire"
)

func TestADecodeErrorTellsWhatIsWrong(t *testing.T) {
	request := func(fields string) string { return `{"frame":"request","id":7,"request":{` + fields + `}}` }
	tests := []struct {
		name, body  string
		code        wire.Code
		id          uint64
		frame, op   string
		field, says string
	}{
		{"nothing", ``, wire.InvalidJSON, 0, "", "", "", "ends where a value is wanted at byte 0"},
		{"no JSON", `hello`, wire.InvalidJSON, 0, "", "", "", "no value begins with this at byte 0"},
		{"JSON that breaks off after the id", `{"frame":"request","id":7,"request":{"op":"sta`, wire.InvalidJSON, 7, "", "", "", "inside a string"},
		{"JSON that breaks off inside the id", `{"frame":"request","id":7`, wire.InvalidJSON, 0, "", "", "", "comma or a closing brace"},
		{"two values", `{} {}`, wire.InvalidJSON, 0, "", "", "", "more after the end"},
		{"text that is not UTF-8", "{\"id\":7,\"frame\":\"\xff\"}", wire.InvalidJSON, 7, "", "", "", "not UTF-8 at byte 17"},
		{"half of a surrogate pair", `{"frame":"\ud800"}`, wire.InvalidJSON, 0, "", "", "", "half of a surrogate pair"},
		{"a trailing comma", `{"id":7,}`, wire.InvalidJSON, 7, "", "", "", "key in quotes"},
		{"too deep a nest", strings.Repeat("[", 200) + strings.Repeat("]", 200), wire.InvalidJSON, 0, "", "", "", "nested more than 128 deep"},
		{"a list", `[]`, wire.InvalidFrame, 0, "", "", "", "an object is wanted, not a list"},
		{"no frame", `{"id":7}`, wire.InvalidFrame, 7, "", "", "frame", "is missing"},
		{"a frame of another kind", `{"frame":"bogus\n","id":7}`, wire.InvalidFrame, 7, "", "", "frame", `"bogus\n" is not a kind of frame`},
		{"a frame that is a number", `{"frame":1,"id":7}`, wire.InvalidFrame, 7, "", "", "frame", "a string is wanted, not a number"},
		{"two frames", `{"frame":"request","id":7,"frame":"request"}`, wire.InvalidFrame, 7, "", "", "frame", "is there twice"},
		{"no id", `{"frame":"request","request":{"op":"status"}}`, wire.InvalidFrame, 0, "request", "", "id", "is missing"},
		{"two ids", `{"frame":"request","id":1,"id":2,"request":{"op":"status"}}`, wire.InvalidFrame, 0, "request", "", "id", "is there twice"},
		{"two ids, one of them escaped", `{"frame":"request","id":1,"\u0069d":2,"request":{"op":"status"}}`, wire.InvalidFrame, 0, "request", "", "id", "is there twice"},
		{"an id that is null", `{"frame":"request","id":null,"request":{"op":"status"}}`, wire.InvalidFrame, 0, "request", "", "id", "an integer is wanted, not null"},
		{"an id that is too large", `{"frame":"request","id":18446744073709551616,"request":{"op":"status"}}`, wire.InvalidFrame, 0, "request", "", "id", "18446744073709551616 is not an integer from 0 to 18446744073709551615"},
		{"an id with an exponent", `{"frame":"request","id":1e0,"request":{"op":"status"}}`, wire.InvalidFrame, 0, "request", "", "id", "1e0 is not an integer"},
		{"an id of minus nothing", `{"frame":"request","id":-0,"request":{"op":"status"}}`, wire.InvalidFrame, 0, "request", "", "id", "-0 is not an integer"},
		{"no request", `{"frame":"request","id":7}`, wire.InvalidRequest, 7, "request", "", "request", "is missing"},
		{"a request that is null", `{"frame":"request","id":7,"request":null}`, wire.InvalidRequest, 7, "request", "", "request", "an object is wanted, not null"},
		{"no op", request(``), wire.InvalidRequest, 7, "request", "", "op", "is missing"},
		{"two ops", request(`"op":"status","op":"status"`), wire.InvalidRequest, 7, "request", "", "op", "is there twice"},
		{"an op nobody knows", request(`"op":"reboot"`), wire.UnknownOp, 7, "request", "", "", "reboot"},
		{"an op of a mebibyte", request(`"op":"` + strings.Repeat("x", 1<<20) + `"`), wire.UnknownOp, 7, "request", "", "", "xxx…"},
		{"a field that is missing", request(`"op":"setup_service_overlay","service":"web"`), wire.InvalidRequest, 7, "request", "setup_service_overlay", "mode", "is missing"},
		{"a field that is null", request(`"op":"teardown_service_overlay","service":null`), wire.InvalidRequest, 7, "request", "teardown_service_overlay", "service", "a string is wanted, not null"},
		{"a field of another type", request(`"op":"teardown_service_overlay","service":true`), wire.InvalidRequest, 7, "request", "teardown_service_overlay", "service", "a string is wanted, not true"},
		{"a field that is there twice", request(`"op":"teardown_service_overlay","service":"a","service":"a"`), wire.InvalidRequest, 7, "request", "teardown_service_overlay", "service", "is there twice"},
		{"a bool that is a number", request(`"op":"allocate_ip","service":"a","join_global":0`), wire.InvalidRequest, 7, "request", "allocate_ip", "join_global", "true or false is wanted, not a number"},
		{"a port out of range", request(`"op":"publish_port","proto":"tcp","host_port":65536,"ip":"10.0.0.1","target_port":80`), wire.InvalidRequest, 7, "request", "publish_port", "host_port", "65536 is not an integer from 0 to 65535"},
		{"a protocol nobody knows", request(`"op":"unpublish_port","proto":"sctp","host_port":1`), wire.InvalidRequest, 7, "request", "unpublish_port", "proto", `sctp is none of tcp, udp, icmp`},
		{"an address with a zone", request(`"op":"ping","ip":"fe80::1%eth0"`), wire.InvalidRequest, 7, "request", "ping", "ip", "has a zone"},
		{"an optional address that is empty", request(`"op":"attach_container","handle":{"platform":"linux_pid","pid":1},"service":"w","join_global":false,"dns_server":""`), wire.InvalidRequest, 7, "request", "attach_container", "dns_server", "is not an IP address"},
		{"a field of a handle", request(`"op":"detach_container","handle":{"platform":"linux_pid","pid":-1}`), wire.InvalidRequest, 7, "request", "detach_container", "handle.pid", "-1 is not an integer from 0 to 4294967295"},
		{"a platform nobody knows", request(`"op":"detach_container","handle":{"platform":"mac"}`), wire.InvalidRequest, 7, "request", "detach_container", "handle.platform", "mac is not known"},
		{"a scope that is null", request(`"op":"remove_peer","pubkey":"k","scope":null`), wire.InvalidRequest, 7, "request", "remove_peer", "scope", "an object is wanted, not null"},
		{"a field of an item of a list", request(`"op":"set_peers","peers":[{"public_key":"k","endpoint":"","allowed_ips":"","persistent_keepalive_secs":0},{"public_key":"k"}]`), wire.InvalidRequest, 7, "request", "set_peers", "peers[1].endpoint", "is missing"},
		{"an item of a list", request(`"op":"hello","client":"c","versions":[1,"2"]`), wire.InvalidRequest, 7, "request", "hello", "versions[1]", "an integer is wanted, not a string"},
		{"a list beyond the bound", request(`"op":"hello","client":"c","versions":[1` + strings.Repeat(",1", wire.MaxList) + `]`), wire.InvalidRequest, 7, "request", "hello", "versions", "more than 65536 items"},
		{"a result nobody knows", `{"frame":"response","id":7,"response":{"result":"bogus"}}`, wire.UnknownResult, 7, "response", "", "", "bogus"},
		{"a result with a bad field", `{"frame":"response","id":7,"response":{"result":"ip","ip":1}}`, wire.InvalidResponse, 7, "response", "ip", "ip", "an IP address is wanted, not a number"},
		{"a prefix that is none", `{"frame":"response","id":7,"response":{"result":"attached","ip":"10.0.0.1","addresses":["10.0.0.1"]}}`, wire.InvalidResponse, 7, "response", "attached", "addresses[0]", "is not a prefix"},
		{"a time with a fraction", `{"frame":"response","id":7,"response":{"result":"leases","leases":[{"ip":"10.0.0.1","pool":"10.0.0.0/8","kind":"k","owner":"o","since_unix_secs":1.5}]}}`, wire.InvalidResponse, 7, "response", "leases", "leases[0].since_unix_secs", "1.5 is not an integer"},
		{"an event nobody knows", `{"frame":"event","event":"bogus","id":7}`, wire.UnknownEvent, 0, "event", "", "", "bogus"},
		{"an event with a bad field", `{"frame":"event","event":"recovered","part":{}}`, wire.InvalidEvent, 0, "event", "recovered", "part", "a string is wanted, not an object"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f, err := wire.Decode([]byte(test.body))
			require.Nil(t, f)
			var got *wire.DecodeError
			require.ErrorAs(t, err, &got)
			require.ErrorIs(t, err, test.code)
			require.Contains(t, got.Msg, test.says)
			require.Less(t, len(err.Error()), 300)
			got.Msg = ""
			require.Equal(t, &wire.DecodeError{Code: test.code, ID: test.id, Frame: test.frame, Name: test.op, Field: test.field}, got)
			require.NotPanics(t, func() { marshal(t, got.Reply()) })
		})
	}
}

func TestARefusalIsASentenceAndAReply(t *testing.T) {
	_, err := wire.Decode([]byte(`{"frame":"request","id":7,"request":{"op":"detach_container","handle":{"platform":"linux_pid","pid":4294967296}}}`))
	require.EqualError(t, err, "invalid request detach_container: handle.pid: 4294967296 is not an integer from 0 to 4294967295")
	require.Equal(t, `{"frame":"response","id":7,"response":{"result":"err","message":"`+err.Error()+`","code":"invalid_request","field":"handle.pid"}}`,
		marshal(t, err.(*wire.DecodeError).Reply()))

	_, err = wire.Decode([]byte(`{"frame":"request","id":7,"request":{"op":"reboot"}}`))
	require.EqualError(t, err, "unknown op: reboot")
}

func TestOptionalFieldsMayBeNullAndKeysInAnyOrderOrUnknown(t *testing.T) {
	f, err := wire.Decode([]byte(" {\"x\":1,\"x\":2,\t\"request\" : {\"scope\":{\"z\":[{}],\"service\":\"web\",\"scope\":\"service\"},\"cidr\":\"c\",\"op\":\"add_allowed_ip\",\"\\u0070ubkey\":\"\\ud83d\\ude00\\n\"},\"id\":3,\"frame\":\"request\"}\r\n"))
	require.NoError(t, err)
	require.Equal(t, wire.RequestFrame{ID: 3, Request: wire.AddAllowedIP{Pubkey: "😀\n", CIDR: "c", Scope: wire.ServiceScope{Service: "web"}}}, f)

	f, err = wire.Decode([]byte(`{"frame":"response","id":1,"response":{"result":"status","interface":null,"node_ip":null,"peer_count":0,"service_count":0,"peers":null,"dns":null,"warnings":[]}}`))
	require.NoError(t, err)
	require.Equal(t, wire.ResponseFrame{ID: 1, Response: wire.Status{}}, f)
}

func TestAScopeIsGlobalUnlessSaid(t *testing.T) {
	require.Equal(t, `{"op":"remove_peer","pubkey":"k","scope":{"scope":"global"}}`, marshal(t, wire.RemovePeer{Pubkey: "k"}))
	r, err := wire.ParseRequest("remove_peer", []byte(`{"pubkey":"k"}`))
	require.NoError(t, err)
	require.Equal(t, wire.RemovePeer{Pubkey: "k", Scope: wire.GlobalScope{}}, r)
	r, err = wire.ParseRequest("list_peers", []byte(`{"scope":null}`))
	require.NoError(t, err)
	require.Equal(t, wire.ListPeers{}, r)
}

func TestWhatCannotBeSentIsAnError(t *testing.T) {
	addr := netip.MustParseAddr
	var foreign struct {
		wire.Request
	}
	tests := []struct {
		name string
		v    any
		says string
	}{
		{"nothing", nil, "wire: nothing to encode"},
		{"no request", wire.RequestFrame{ID: 1}, "wire: request: is not set"},
		{"no response", wire.ResponseFrame{ID: 1}, "wire: response: is not set"},
		{"no event", wire.EventFrame{}, "wire: event: is not set"},
		{"no address", wire.ReleaseIP{}, "wire: ip: is not set"},
		{"no handle", wire.DetachContainer{}, "wire: handle: is not set"},
		{"no mode", wire.RequestFrame{Request: wire.SetupServiceOverlay{}}, `wire: request.mode: "" is none of auto, shared, dedicated`},
		{"an address with a zone", wire.ReleaseIP{IP: addr("fe80::1%eth0")}, "wire: ip: fe80::1%eth0 has a zone, which means nothing to the other side"},
		{"no prefix", wire.Attached{IP: addr("::1"), Addresses: make([]netip.Prefix, 1)}, "wire: addresses[0]: is not set"},
		{"a list beyond the bound", wire.HelloRequest{Versions: make([]uint32, wire.MaxList+1)}, "wire: versions: 65537 items, and 65536 are allowed"},
		{"a map", map[string]int{}, "wire: map[string]int is no type of the contract"},
		{"a pointer", wire.RequestFrame{Request: &wire.Shutdown{}}, "wire: request: *wire.Shutdown is no type of the contract"},
		{"a type of somebody else's", wire.RequestFrame{Request: foreign}, "wire: request: struct { wire.Request } is no type of the contract"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := wire.Marshal(test.v)
			require.EqualError(t, err, test.says)
			var refused *wire.EncodeError
			require.ErrorAs(t, err, &refused)
		})
	}
}

func TestTextIsEscapedNoMoreThanJSONAsks(t *testing.T) {
	var all strings.Builder
	for r := range rune(0x300) {
		all.WriteRune(r)
	}
	all.WriteString("\u2028\u2029\uffff😀")
	data := marshal(t, wire.UnregisterDNS{Name: all.String()})
	require.Contains(t, data, `"name":"\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e`)
	require.Contains(t, data, "\u007f\u0080")
	require.Contains(t, data, ` !\"#$%&'()*+,-./0123456789:;<=>?@`)
	require.Contains(t, data, "\u2028\u2029\uffff😀")

	var back struct{ Name string }
	require.NoError(t, json.Unmarshal([]byte(data), &back))
	require.Equal(t, all.String(), back.Name)
	r, err := wire.ParseRequest("unregister_dns", []byte(data))
	require.NoError(t, err)
	require.Equal(t, wire.UnregisterDNS{Name: all.String()}, r)

	require.Equal(t, `{"op":"unregister_dns","name":"a`+"\ufffd"+`b`+"\ufffd\ufffd"+`"}`, marshal(t, wire.UnregisterDNS{Name: "a\xffb\xe2\x80"}))
}

func TestARequestCanBeMadeOfAnOpAndItsFields(t *testing.T) {
	require.Len(t, wire.Ops(), 33)
	require.IsNonDecreasing(t, wire.Ops())
	r, err := wire.ParseRequest("status", nil)
	require.NoError(t, err)
	require.Equal(t, wire.StatusRequest{}, r)
	r, err = wire.ParseRequest("detach_container", []byte(` {"handle":{"platform":"guest_managed","id":"vm"}} `))
	require.NoError(t, err)
	require.Equal(t, wire.DetachContainer{Handle: wire.GuestManaged{ID: "vm"}}, r)

	_, err = wire.ParseRequest("reboot", nil)
	require.ErrorIs(t, err, wire.UnknownOp)
	_, err = wire.ParseRequest("ping", nil)
	require.EqualError(t, err, "invalid request ping: ip: is missing: ping takes ip")
	_, err = wire.ParseRequest("ping", []byte(`{"ip"`))
	require.EqualError(t, err, "invalid json for ping: a colon is wanted after the key at byte 5")
	_, err = wire.ParseRequest("ping", []byte(`7`))
	require.EqualError(t, err, "invalid request ping: an object is wanted, not a number")
}

func TestAFieldThatIsMissingOrMisspeltIsToldWithThoseThereAre(t *testing.T) {
	for name, test := range map[string]struct{ op, fields, says string }{
		"a misspelt optional field": {"setup_service_overlay", `{"service":"web","mode":"auto","subnets":"10.9.0.0/24"}`,
			"invalid request setup_service_overlay: subnets: is no field: setup_service_overlay takes service, mode, [subnet]"},
		"in a handle": {"detach_container", `{"handle":{"platform":"linux_pid","pid":7,"PID":7}}`,
			"invalid request detach_container: handle.PID: is no field: linux_pid takes pid"},
		"in a list": {"set_peers", `{"peers":[{"pubkey":"k"}]}`,
			"invalid request set_peers: peers[0].pubkey: is no field: it takes public_key, endpoint, allowed_ips, persistent_keepalive_secs"},
		"of an operation without any": {"status", `{"all":true}`,
			"invalid request status: all: is no field: status takes none"},
		"a missing field": {"add_peer", `{"public_key":"k"}`,
			"invalid request add_peer: endpoint: is missing: add_peer takes public_key, endpoint, allowed_ips, persistent_keepalive_secs, [scope]"},
		"missing in a handle": {"detach_container", `{"handle":{"platform":"linux_pid"}}`,
			"invalid request detach_container: handle.pid: is missing: linux_pid takes pid"},
	} {
		_, err := wire.ParseRequest(test.op, []byte(test.fields))
		require.EqualError(t, err, test.says, name)
	}
	r, err := wire.ParseRequest("status", []byte(`{"op":"status"}`))
	require.NoError(t, err, "the op of a frame may stay")
	require.Equal(t, wire.StatusRequest{}, r)
}

func TestNineteenOpsAreTheContracts(t *testing.T) {
	ours := 0
	for _, op := range wire.Ops() {
		r := zero(t, op)
		require.Equal(t, op, r.Op())
		if !wire.IsExtension(r) {
			ours++
		}
	}
	require.Equal(t, 19, ours)
	require.False(t, wire.IsExtension(wire.AttachContainer{}))
	require.True(t, wire.IsExtension(wire.HelloRequest{}))
}

func TestASecretIsNotPrinted(t *testing.T) {
	c := wire.GuestConfig{OverlayIP: netip.MustParseAddr("10.0.0.1"), PrivateKey: "hush"}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		require.NotContains(t, fmt.Sprintf(verb, c), "hush")
	}
	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "key", c.PrivateKey, "config", c)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "key", c.PrivateKey, "config", c)
	require.NotContains(t, out.String(), "hush")
	require.Contains(t, marshal(t, c), `"private_key":"hush"`)
}

func TestACodeIsFoundInWhatWrapsIt(t *testing.T) {
	err := fmt.Errorf("attach: %w", &wire.DecodeError{Code: wire.UnknownOp})
	require.True(t, errors.Is(err, wire.UnknownOp))
	require.False(t, errors.Is(err, wire.NotFound))
	require.Equal(t, "unknown op", wire.UnknownOp.Error())
}
