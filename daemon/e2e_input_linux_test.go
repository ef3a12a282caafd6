package daemon_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/stretchr/testify/require"
)

// A plain is a connection without a client's care.
type plain struct {
	t testing.TB
	net.Conn
}

func (h *host) plain() *plain {
	h.t.Helper()
	conn, err := net.Dial("unix", h.order.Endpoint)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { conn.Close() })
	return &plain{h.t, conn}
}

func (p *plain) send(body string) {
	p.t.Helper()
	p.SetDeadline(time.Now().Add(20 * time.Second))
	_, err := p.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...))
	require.NoError(p.t, err)
}

// receive reads a response.
func (p *plain) receive() wire.ResponseFrame {
	p.t.Helper()
	body, err := wire.ReadFrame(p, nil)
	require.NoError(p.t, err)
	f, err := wire.Decode(body)
	require.NoError(p.t, err, string(body))
	require.IsType(p.t, wire.ResponseFrame{}, f, string(body))
	return f.(wire.ResponseFrame)
}

// ask sends a request, given as its JSON.
func (p *plain) ask(id uint64, request string) wire.Response {
	p.t.Helper()
	p.send(fmt.Sprintf(`{"frame":"request","id":%d,"request":%s}`, id, request))
	answer := p.receive()
	require.Equal(p.t, id, answer.ID)
	return answer.Response
}

// quote is text as JSON.
func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// What no field of text may be, besides what it may not be for what it means.
var (
	huge     = quote(strings.Repeat("a", 1<<20))
	names    = []string{`""`, `"a\nb"`, `" a"`, `"a/b"`, `"../../etc/passwd"`, `"a\u0000"`, `"\u007f"`, `"\u202e"`, quote(strings.Repeat("a", 129)), huge}
	prefixes = []string{`"banana"`, `"10.200.0.0"`, `"10.200.0.0/33"`, `"10.200.0.1/16"`, `"10.200.0.0/16\nendpoint=192.0.2.1:1"`, `"10.200.0.0/-1"`, `"10.200.0.0/016"`,
		`"127.0.0.0/8"`, `"224.0.0.0/8"`, `"fe80::/64"`, `"ff00::/8"`, `"::ffff:10.0.0.0/104"`, `"10.200.0.0/16,,"`, huge}
	keys = []string{`""`, `"k"`, `"AAAA"`, quote(strings.Repeat("A", 44)), quote(strings.Repeat("A", 43) + "=\n"), `"AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI"`,
		quote("AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\nallowed_ip=0.0.0.0/0"), `"0202020202020202020202020202020202020202020202020202020202020202"`, huge}
	endpoints = []string{`"192.0.2.9"`, `"192.0.2.9:0"`, `"192.0.2.9:65536"`, `":51420"`, `"192.0.2.9:51420\nprivate_key=00"`, `"a/b:51420"`, `"[::1%eth0]:51420"`, huge}
	addrs     = []string{`""`, `"banana"`, `"10.200.0.1/32"`, `"fe80::1%eth0"`, `"10.200.0.01"`, huge}
	hostnames = []string{`""`, `"a b"`, `"a/b"`, `"a\nb"`, `".."`, `"a..b"`, quote(strings.Repeat("a", 64)), quote(strings.Repeat("a.", 127) + "a"), huge}
	scopes    = []string{`null`, `{}`, `{"scope":"bogus"}`, `{"scope":"service"}`, `{"scope":"service","service":"nobody"}`, `{"scope":"service","service":"web"}`, `{"scope":"service","service":"a\nb"}`}
	numbers   = []string{`"1"`, `-1`, `1.5`, `1e3`, `18446744073709551616`}
	booleans  = []string{`"true"`, `0`}
)

// A field is one of a request, and values that are refused.
type field struct {
	path     string
	optional bool
	bad      []string
}

type operation struct {
	good   string // with every field; what it asks for need not be there
	fields []field
}

func TestE2EBadInputIsRefusedByNameAndChangesNothing(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	web, _ := everything(t, h)
	dead := newContainer(t, "dead")
	dead.die()
	free := newContainer(t, "free")
	neighbour := h.ns.Command("sleep", "infinity")
	require.NoError(t, neighbour.Start())
	t.Cleanup(func() { neighbour.Process.Kill(); neighbour.Wait() })
	// Wait until it is in the host's namespace.
	require.Eventually(t, func() bool {
		its, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", neighbour.Process.Pid))
		daemons, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", h.process.Process.Pid))
		return its == daemons && its != ""
	}, 30*time.Second, time.Millisecond)
	subnet := h.service("db").Subnets[0].String()

	pids := []string{"0", "1", fmt.Sprint(h.process.Process.Pid), fmt.Sprint(neighbour.Process.Pid), fmt.Sprint(dead.pid), "4294967295", "4294967296"}
	// Where the first process's namespace cannot be seen, nobody knows that ours is
	// the machine's.
	if first, err := os.Readlink("/proc/1/ns/net"); err == nil {
		if ours, _ := os.Readlink("/proc/self/ns/net"); ours == first {
			pids = append(pids, strconv.Itoa(os.Getpid()))
		}
	}
	before, listing := h.facts().text(), h.listing()
	target := family(web.at, false).String()
	for name, op := range map[string]operation{
		"set_local_node_id":   {`{"node_id":3}`, []field{{"node_id", false, numbers}}},
		"set_local_wg_pubkey": {`{"pubkey":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}`, []field{{"pubkey", false, keys}}},
		"setup_global_overlay": {fmt.Sprintf(`{"deployment":"test","instance_id":"1","cluster_cidr":%q,"slice_cidr":%q,"wg_port":51420,"nat_enabled":false}`, cluster, slicesOf(1)), []field{
			{"deployment", false, names[1:]},
			{"instance_id", false, names[1:]},
			{"cluster_cidr", false, append([]string{`""`, `"0.0.0.0/0"`, `"10.200.0.0/16,10.200.128.0/17"`, `"10.200.0.0/16,10.201.0.0/16"`, `"10.200.0.0/31"`}, prefixes...)},
			{"slice_cidr", true, append([]string{`"10.99.0.0/24"`, `"10.0.0.0/8"`, `"10.200.1.0/24,10.200.2.0/24"`, `"10.200.1.0/32"`}, prefixes...)},
			{"wg_port", false, append([]string{`0`, `65536`}, numbers...)},
			{"nat_enabled", false, booleans},
		}},
		"setup_service_overlay": {`{"service":"web","mode":"shared","subnet":""}`, []field{
			{"service", false, names},
			{"mode", false, []string{`""`, `"Shared"`, `"bogus"`}},
			{"subnet", true, append([]string{`"10.99.0.0/24"`, `"10.200.0.0/16"`, `"10.200.1.0/28"`, quote(subnet), `"10.200.64.0/32"`}, prefixes...)},
		}},
		"teardown_service_overlay": {`{"service":"nobody"}`, []field{{"service", false, names}}},
		"allocate_ip": {`{"service":"web","join_global":false}`, []field{
			{"service", false, append([]string{`"nobody"`}, names...)},
			{"join_global", false, booleans},
		}},
		"release_ip": {`{"ip":"10.200.1.200"}`, []field{{"ip", false, append([]string{quote(target)}, addrs...)}}},
		"attach_container": {fmt.Sprintf(`{"handle":{"platform":"linux_pid","pid":%d},"service":"web","join_global":false,"dns_server":"10.200.1.1","dns_domain":"x"}`, free.pid), []field{
			{"handle", false, []string{`{}`, `{"platform":"bogus"}`, `{"platform":"linux_pid"}`, `{"platform":"guest_managed"}`, `{"platform":"guest_managed","id":7}`, `{"platform":"windows_container","container_id":"c"}`}},
			{"handle.pid", false, append(pids, numbers...)},
			{"service", false, append([]string{`"nobody"`}, names...)},
			{"join_global", false, booleans},
			{"dns_server", true, addrs[1:]},
			{"dns_domain", true, hostnames[1:]},
		}},
		"detach_container": {`{"handle":{"platform":"linux_pid","pid":4194304}}`, []field{
			{"handle", false, []string{`{}`, `{"platform":"bogus"}`, `{"platform":"linux_pid"}`, `{"platform":"guest_managed"}`, `{"platform":"guest_managed","id":7}`}},
			{"handle.pid", false, append([]string{`4294967296`}, numbers...)},
		}},
		"add_peer": {`{"public_key":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=","endpoint":"192.0.2.9:51420","allowed_ips":"10.200.77.0/24","persistent_keepalive_secs":25,"scope":{"scope":"global"}}`, []field{
			{"public_key", false, append([]string{quote(h.facts().Status.PublicKey)}, keys...)},
			{"endpoint", false, endpoints},
			{"allowed_ips", false, append([]string{`"10.200.9.0/25"`, `"10.200.1.0/24"`, quote(subnet)}, prefixes...)},
			{"persistent_keepalive_secs", false, append([]string{`65536`}, numbers...)},
			{"scope", true, scopes},
		}},
		"remove_peer": {`{"pubkey":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=","scope":{"scope":"global"}}`, []field{
			{"pubkey", false, keys},
			{"scope", true, scopes},
		}},
		"add_allowed_ip": {fmt.Sprintf(`{"pubkey":%q,"cidr":"10.200.78.0/24","scope":{"scope":"global"}}`, aPeer.PublicKey), []field{
			{"pubkey", false, append([]string{`"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM="`}, keys...)},
			{"cidr", false, append([]string{`""`, `"10.200.1.0/24"`}, prefixes...)},
			{"scope", true, scopes},
		}},
		"remove_allowed_ip": {fmt.Sprintf(`{"pubkey":%q,"cidr":"10.200.78.0/24","scope":{"scope":"global"}}`, aPeer.PublicKey), []field{
			{"pubkey", false, keys},
			{"cidr", false, append([]string{`""`}, prefixes...)},
			{"scope", true, scopes},
		}},
		"set_peers": {`{"peers":[{"public_key":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=","endpoint":"192.0.2.9:51420","allowed_ips":"10.200.77.0/24","persistent_keepalive_secs":25}],"scope":{"scope":"global"}}`, []field{
			{"peers", false, []string{`{}`, `[7]`, `[{}]`,
				`[{"public_key":"k","endpoint":"192.0.2.9:51420","allowed_ips":"10.200.77.0/24","persistent_keepalive_secs":25}]`,
				`[{"public_key":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=","endpoint":"192.0.2.9:51420","allowed_ips":"10.200.77.0/24","persistent_keepalive_secs":25},{"public_key":"BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ=","endpoint":"192.0.2.9:51420","allowed_ips":"10.200.77.128/25","persistent_keepalive_secs":25}]`,
				`[{"public_key":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=","endpoint":"192.0.2.9:51420","allowed_ips":"10.200.77.0/24","persistent_keepalive_secs":25},{"public_key":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=","endpoint":"192.0.2.9:51420","allowed_ips":"10.200.78.0/24","persistent_keepalive_secs":25}]`}},
			{"scope", true, scopes},
		}},
		"register_dns": {`{"name":"x","ip":"10.200.9.9","mode":"add"}`, []field{
			{"name", false, hostnames},
			{"ip", false, addrs},
			{"mode", true, []string{`"bogus"`, `7`}},
		}},
		"unregister_dns": {`{"name":"nobody"}`, []field{{"name", false, hostnames}}},
		"resolve":        {`{"name":"x"}`, []field{{"name", false, append([]string{`"nobody"`}, hostnames...)}}},
		"publish_port": {fmt.Sprintf(`{"proto":"tcp","host_ip":"192.0.2.1","host_port":8081,"ip":%q,"target_port":80}`, target), []field{
			{"proto", false, []string{`""`, `"icmp"`, `"sctp"`, `"TCP"`}},
			{"host_ip", true, addrs[1:]},
			{"host_port", false, append([]string{`65536`}, numbers...)},
			{"ip", false, append([]string{`"192.0.2.77"`, `"127.0.0.1"`, `"0.0.0.0"`, `"::"`}, addrs...)},
			{"target_port", false, append([]string{`0`, `65536`}, numbers...)},
		}},
		"unpublish_port": {`{"proto":"tcp","host_ip":"192.0.2.1","host_port":9999}`, []field{
			{"proto", false, []string{`""`, `"icmp"`, `"sctp"`}},
			{"host_ip", true, addrs[1:]},
			{"host_port", false, append([]string{`0`, `65536`}, numbers...)},
		}},
		"ping":             {`{"ip":"10.200.1.1"}`, []field{{"ip", false, addrs}}},
		"explain":          {`{"src":"10.200.1.1","dst":"10.200.9.1","proto":"tcp","port":80}`, []field{{"src", false, addrs}, {"dst", false, addrs}, {"proto", true, []string{`"sctp"`}}, {"port", true, numbers}}},
		"list_attachments": {`{"service":"web"}`, []field{{"service", true, names[1:]}}},
		"list_leases":      {`{"service":"web"}`, []field{{"service", true, names[1:]}}},
		"subscribe_events": {`{"events":["degraded"]}`, []field{{"events", true, []string{`["bogus"]`, `[7]`, `"degraded"`}}}},
		"hello":            {`{"client":"x","versions":[1],"features":[]}`, []field{{"client", false, []string{huge}}, {"versions", false, []string{`[]`, `[2]`, `[-1]`, `7`}}, {"features", true, []string{`7`, `[7]`}}}},
	} {
		t.Run(name, func(t *testing.T) {
			h := *h
			h.t = t
			conn := h.plain()
			var id uint64
			refuse := func(field, value, request string) {
				id++
				answer := conn.ask(id, request)
				if len(value) > 80 {
					value = value[:80] + "…"
				}
				e, ok := answer.(wire.Err)
				if !ok {
					t.Errorf("%s = %s is taken: %+v", field, value, answer)
					return
				}
				if e.Code == "" || e.Code == wire.Internal || e.Message == "" {
					t.Errorf("%s = %s: code %q, message %q", field, value, e.Code, e.Message)
				}
				last := field[strings.LastIndex(field, ".")+1:]
				if !strings.Contains(e.Field, last) && !strings.Contains(e.Message, last) {
					t.Errorf("%s = %s: neither the field %q nor the message %q names it", field, value, e.Field, e.Message)
				}
				if len(e.Message) > 1000 {
					t.Errorf("%s = %s: the message has %d bytes", field, value, len(e.Message))
				}
			}
			for _, f := range op.fields {
				if !f.optional {
					refuse(f.path, "(absent)", change(t, name, op.good, f.path, ""))
					refuse(f.path, "null", change(t, name, op.good, f.path, "null"))
				}
				for _, value := range append([]string{`[[]]`}, f.bad...) {
					refuse(f.path, value, change(t, name, op.good, f.path, value))
				}
			}
			require.Equal(t, before, h.facts().text(), "refused requests changed something")
			require.Equal(t, listing, h.listing(), "refused requests changed the host")
		})
	}
}

// change is a request with one field changed, or left out if the value is empty.
func change(t *testing.T, op, good, path, value string) string {
	t.Helper()
	var fields map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(good), &fields))
	outer, inner, nested := strings.Cut(path, ".")
	require.Contains(t, fields, outer)
	switch {
	case nested:
		fields[outer] = json.RawMessage(change(t, "", string(fields[outer]), inner, value))
	case value == "":
		delete(fields, path)
	default:
		fields[path] = json.RawMessage(value)
	}
	if op != "" {
		fields["op"] = json.RawMessage(quote(op))
	}
	body, err := json.Marshal(fields)
	require.NoError(t, err)
	return string(body)
}

// results are what answers each op of the contract.
var results = map[string]string{
	"allocate_ip":           "ip",
	"attach_container":      "attached",
	"setup_global_overlay":  "bridge_name",
	"setup_service_overlay": "service_overlay",
	"status":                "status",
}

func TestE2EEveryVectorGetsTheAnswerTheContractHasForIt(t *testing.T) {
	h := startHost(t)
	c := newContainer(t, "web-0")
	conn := h.plain()
	data, err := os.ReadFile("wire/testdata/frames.jsonl")
	require.NoError(t, err)
	var requests, refusals int
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		// The vectors' process is whoever has that number; ours stands for it.
		line = strings.Replace(line, `"pid":31337`, fmt.Sprintf(`"pid":%d`, c.pid), 1)
		f, err := wire.Decode([]byte(line))
		require.NoError(t, err)
		asked, ok := f.(wire.RequestFrame)
		if !ok {
			conn.send(line) // a client has no business to send it: it is ignored
			continue
		}
		// What it is about is there.
		if !strings.HasPrefix(asked.Request.Op(), "setup_") {
			h.setupGlobal(3)
			h.setupService("web", "dedicated")
			for _, scope := range []wire.PeerScope{wire.GlobalScope{}, wire.ServiceScope{Service: "web"}} {
				require.NoError(t, h.AddPeer(h.ctx, wire.PeerSpec{PublicKey: aPeer.PublicKey, Endpoint: aPeer.Endpoint, AllowedIPs: ""}, scope))
			}
		} else {
			require.NoError(t, all(detach, detachGuest, teardownService("web"), teardownGlobal)(h, c))
		}
		conn.send(line)
		requests++
		answer := conn.receive()
		require.Equal(t, asked.ID, answer.ID, line)
		if e, ok := answer.Response.(wire.Err); ok {
			require.NotEmpty(t, e.Code, line)
			require.NotEqual(t, wire.Internal, e.Code, "%s: %s", line, e.Message)
			t.Logf("%s: %s: %s", asked.Request.Op(), e.Code, e.Message)
			refusals++
			continue
		}
		want, ok := results[asked.Request.Op()]
		if !ok {
			want = "ok"
		}
		if a, ok := asked.Request.(wire.AttachContainer); ok && a.Handle.Platform() == "guest_managed" {
			want = "guest_config"
		}
		require.Equal(t, want, answer.Response.Result(), line)
		if _, ok := asked.Request.(wire.Shutdown); ok {
			// The frames behind it, which are not requests, go nowhere.
			_, err := io.Copy(io.Discard, conn)
			require.NoError(t, err)
			break
		}
	}
	h.awaitEnd()
	require.Zero(t, h.process.ProcessState.ExitCode())
	require.Equal(t, 34, requests)
	require.Equal(t, 2, refusals, "what is for Windows")
}

func TestE2EFramesTheContractRejectsGetAnErrorAndTheConnectionLives(t *testing.T) {
	h := startHost(t)
	before := h.facts().text()
	conn := h.plain()
	data, err := os.ReadFile("wire/testdata/decode.tsv")
	require.NoError(t, err)
	for line := range strings.Lines(string(data)) {
		columns := strings.Split(line, "\t")
		var refused *wire.DecodeError
		if _, err := wire.Decode([]byte(columns[1])); columns[0] != "reject" {
			continue
		} else {
			require.ErrorAs(t, err, &refused)
		}
		conn.send(columns[1])
		if refused.Frame == "response" || refused.Frame == "event" {
			continue // ignored, like those that are well-formed
		}
		answer := conn.receive()
		require.Equal(t, refused.ID, answer.ID, line)
		e, ok := answer.Response.(wire.Err)
		require.True(t, ok, line)
		require.Equal(t, refused.Code, e.Code, line)
	}
	conn.send("\xff not JSON")
	e, _ := conn.receive().Response.(wire.Err)
	require.Equal(t, wire.InvalidJSON, e.Code)
	require.IsType(t, wire.Status{}, conn.ask(99, `{"op":"status"}`))
	require.Equal(t, before, h.facts().text())
}
