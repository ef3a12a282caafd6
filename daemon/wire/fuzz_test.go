package wire_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overlayd/overlayd/daemon/wire"
)

// zero is the zero value of an op's request, found by asking for it with every
// field anyone has.
func zero(t testing.TB, op string) wire.Request {
	f, err := wire.Decode([]byte(`{"frame":"request","id":0,"request":{"op":"` + op + `","node_id":0,"pubkey":"","deployment":"","instance_id":"","cluster_cidr":"",
		"wg_port":0,"nat_enabled":false,"service":"","mode":` + map[bool]string{true: `"add"`, false: `"auto"`}[op == "register_dns"] + `,
		"join_global":false,"ip":"::","handle":{"platform":"linux_pid","pid":0},"public_key":"","endpoint":"",
		"allowed_ips":"","persistent_keepalive_secs":0,"cidr":"","name":"","client":"","versions":[],"peers":[],
		"proto":"tcp","host_port":0,"target_port":0,"src":"::","dst":"::","port":0}}`))
	require.NoError(t, err)
	return f.(wire.RequestFrame).Request
}

// fill sets every field of a value to something random that can be sent.
func fill(r *rand.Rand, v reflect.Value) {
	switch v.Type() {
	case reflect.TypeFor[netip.Addr]():
		v.Set(reflect.ValueOf(randomAddr(r)))
		return
	case reflect.TypeFor[netip.Prefix]():
		a := randomAddr(r)
		if a.Is4In6() {
			a = a.Unmap() // netip has no prefixes of mapped addresses
		}
		v.Set(reflect.ValueOf(netip.PrefixFrom(a, r.IntN(a.BitLen()+1))))
		return
	case reflect.TypeFor[wire.Mode]():
		v.SetString([]string{"auto", "shared", "dedicated"}[r.IntN(3)])
		return
	case reflect.TypeFor[wire.DNSMode]():
		v.SetString([]string{"", "add"}[r.IntN(2)])
		return
	case reflect.TypeFor[wire.Proto]():
		v.SetString([]string{"tcp", "udp", "icmp"}[r.IntN(3)])
		return
	case reflect.TypeFor[wire.Handle]():
		h := [...]wire.Handle{wire.LinuxPID{PID: r.Uint32()}, wire.WindowsContainer{ContainerID: "c", IP: randomAddr(r)}, wire.GuestManaged{ID: "g"}}
		v.Set(reflect.ValueOf(h[r.IntN(3)]))
		return
	case reflect.TypeFor[wire.PeerScope]():
		s := [...]wire.PeerScope{wire.GlobalScope{}, wire.ServiceScope{Service: "web"}}
		v.Set(reflect.ValueOf(s[r.IntN(2)]))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.String:
		v.SetString([]string{"", "web", "é <&> \"\\", "\x00\n\u2028😀", "null"}[r.IntN(5)])
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(r.Uint64() >> (64 - v.Type().Bits()) >> r.IntN(v.Type().Bits()))
	case reflect.Int64:
		v.SetInt(int64(r.Uint64()))
	case reflect.Slice:
		if n := r.IntN(3); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for i := range n {
				fill(r, v.Index(i))
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i))
		}
	default:
		panic(v.Type().String() + " cannot be filled")
	}
}

func randomAddr(r *rand.Rand) netip.Addr {
	var b [16]byte
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	switch r.IntN(3) {
	case 0:
		return netip.AddrFrom4([4]byte(b[:4]))
	case 1:
		return netip.AddrFrom16(netip.AddrFrom4([4]byte(b[:4])).As16())
	}
	return netip.AddrFrom16(b)
}

func TestWhateverIsSentArrives(t *testing.T) {
	responses := []wire.Response{
		wire.OK{}, wire.IP{}, wire.Attached{}, wire.GuestConfig{}, wire.BridgeName{}, wire.Status{}, wire.ServiceOverlay{}, wire.Err{},
		wire.Hello{}, wire.Attachments{}, wire.Services{}, wire.Leases{}, wire.Peers{}, wire.DNS{},
		wire.PeersSet{}, wire.Port{}, wire.Ports{}, wire.Resolved{}, wire.Explanation{}, wire.Pong{},
	}
	events := []wire.Event{wire.PeerHealthChanged{}, wire.NATEndpointChanged{}, wire.AttachmentChanged{}, wire.LeasesLow{}, wire.Degraded{}, wire.Recovered{}}
	require.Len(t, wire.EventKinds(), len(events))
	r := rand.New(rand.NewPCG(1, 2))
	random := func(v any) any {
		p := reflect.New(reflect.TypeOf(v)).Elem()
		fill(r, p)
		return p.Interface()
	}
	for range 40 {
		var frames []wire.Frame
		for _, op := range wire.Ops() {
			frames = append(frames, wire.RequestFrame{ID: r.Uint64(), Request: random(zero(t, op)).(wire.Request)})
		}
		for _, res := range responses {
			frames = append(frames, wire.ResponseFrame{ID: r.Uint64(), Response: random(res).(wire.Response)})
		}
		for _, ev := range events {
			frames = append(frames, wire.EventFrame{Event: random(ev).(wire.Event)})
		}
		var stream []byte
		for _, f := range frames {
			var err error
			stream, err = wire.AppendFrame(stream, f)
			require.NoError(t, err)
		}
		in := bytes.NewReader(stream)
		for _, sent := range frames {
			body, err := wire.ReadFrame(in, nil)
			require.NoError(t, err)
			got, err := wire.Decode(body)
			require.NoError(t, err, string(body))
			require.Equal(t, sent, got)
		}
		require.Zero(t, in.Len())
	}
}

func seeds(f *testing.F) (bodies []string) {
	bodies = lines(f, "frames.jsonl")
	for _, line := range lines(f, "decode.tsv") {
		bodies = append(bodies, strings.Split(line, "\t")[1])
	}
	return bodies
}

// FuzzFrame gives Decode any body.
func FuzzFrame(f *testing.F) {
	for _, body := range seeds(f) {
		f.Add([]byte(body))
	}
	f.Add([]byte(`{"frame":"request","id":1,"request":{"op":"set_peers","peers":[{"public_key":"\ud83d\ude00","endpoint":"\u0000","allowed_ips":"","persistent_keepalive_secs":0}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		given := bytes.Clone(body)
		frame, err := wire.Decode(body)
		require.Equal(t, given, body, "the body was changed")
		if err != nil {
			var refused *wire.DecodeError
			require.ErrorAs(t, err, &refused)
			require.NotEmpty(t, refused.Code)
			require.Less(t, len(err.Error()), 1000)
			marshal(t, refused.Reply())
			return
		}
		clear(body) // the frame shares no memory with it
		first := marshal(t, frame)
		again, err := wire.Decode([]byte(first))
		require.NoError(t, err)
		require.Equal(t, frame, again)
		require.Equal(t, first, marshal(t, again))
		copy(body, given)
	})
}

// FuzzReadFrame gives ReadFrame any stream.
func FuzzReadFrame(f *testing.F) {
	var stream []byte
	for _, body := range seeds(f) {
		one := prefixed(uint32(len(body)), body)
		f.Add([]byte(one), uint16(0))
		stream = append(stream, one...)
	}
	f.Add(stream, uint16(100))
	f.Add([]byte(prefixed(wire.MaxFrame, "")), uint16(3))
	f.Add([]byte(prefixed(wire.MaxFrame+1, "")), uint16(3))
	f.Fuzz(func(t *testing.T, stream []byte, room uint16) {
		in := bytes.NewReader(stream)
		buf := make([]byte, 0, room)
		var taken []byte
		for {
			body, err := wire.ReadFrame(in, buf)
			if err == io.EOF {
				require.Equal(t, len(stream), len(taken), "the end came early")
				return
			}
			if err != nil {
				return
			}
			require.LessOrEqual(t, cap(body), max(int(room), 4*len(body)+8192))
			taken = append(taken, prefixed(uint32(len(body)), string(body))...)
			require.True(t, bytes.HasPrefix(stream, taken), "what was read is not what was there")
			wire.Decode(body) //nolint:errcheck // it must only not panic
			buf = body
		}
	})
}
