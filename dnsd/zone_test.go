package dnsd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func emptyZone(tb testing.TB) *Zone {
	z, err := NewZone(ZoneConfig{Origin: "overlay.internal", Reverse: []netip.Prefix{netip.MustParsePrefix("10.200.0.0/16")}})
	require.NoError(tb, err)
	return z
}

// all is every record as text, in order.
func all(z *Zone) []string {
	var out []string
	for r := range z.All() {
		out = append(out, fmt.Sprintf("%s %v %T %v", r.Name, r.TTL, r.Data, r.Data))
	}
	slices.Sort(out)
	return out
}

func TestATreeHoldsWhatAMapHolds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	oracle := make(map[string]*owner)
	root := &tree{edit: new(edit)}
	published := root // and what it held, which never changes
	held := make(map[string]*owner)
	for step := range 20_000 {
		if step%100 == 0 {
			count := 0
			published.each(func(o *owner) bool { count++; require.Same(t, held[o.name], o); return true })
			require.Equal(t, len(held), count)
			published, held = root, make(map[string]*owner)
			for k, v := range oracle {
				held[k] = v
			}
		}
		e := root.edit
		if random.IntN(3) == 0 {
			e = new(edit)
		}
		if step%100 == 0 {
			e = new(edit) // what is published belongs to nobody
		}
		name := fmt.Sprint(random.IntN(500))
		// Some hashes are equal in all bits, many in some.
		hash := uint64(random.IntN(2))<<63 | uint64(len(name))<<60 | uint64(name[0])<<12
		if had := oracle[name]; had != nil {
			hash = had.hash
		}
		if o := oracle[name]; o != nil && random.IntN(2) == 0 {
			root = root.cut(e, o, 0)
			delete(oracle, name)
		} else {
			o := &owner{name: name, hash: hash}
			root = root.put(e, o, 0)
			oracle[name] = o
		}
		name = fmt.Sprint(random.IntN(500))
		want := oracle[name]
		if want != nil {
			hash = want.hash
		}
		require.Same(t, want, root.get(hash, []byte(name)))
	}
	for _, o := range oracle {
		root = root.cut(root.edit, o, 0)
	}
	require.Empty(t, root.owners)
	require.Empty(t, root.branches)
}

func TestPTRRecordsFollowAddresses(t *testing.T) {
	z := emptyZone(t)
	empty := all(z)
	a, b := addr("10.200.0.1"), addr("10.200.0.2")
	names := func(a netip.Addr) []string {
		records, err := z.Lookup(nameText(reverseName(a)))
		require.NoError(t, err)
		var out []string
		for _, r := range records {
			out = append(out, string(r.Data.(PTR)))
		}
		slices.Sort(out)
		return out
	}
	require.NoError(t, z.SetAddresses("one", a))
	require.NoError(t, z.SetAddresses("two", a, b))
	require.Equal(t, []string{"one.overlay.internal.", "two.overlay.internal."}, names(a))
	require.Equal(t, []string{"two.overlay.internal."}, names(b))
	require.NoError(t, z.SetAddresses("two", b), "an address less")
	require.Equal(t, []string{"one.overlay.internal."}, names(a))
	require.NoError(t, z.Delete(Record{Name: "one", Data: Address(a)}))
	require.Empty(t, names(a))
	require.NoError(t, z.Remove("two"))
	require.Empty(t, names(b))
	require.Equal(t, empty, all(z))
	require.Zero(t, z.Len())

	t.Run("but not those of wildcards", func(t *testing.T) {
		require.NoError(t, z.SetAddresses("*", a))
		require.Empty(t, names(a))
		require.NoError(t, z.Remove("*"))
	})
	t.Run("and are bounded where names share an address", func(t *testing.T) {
		for i := range 100 {
			require.NoError(t, z.SetAddresses(fmt.Sprint("n", i), a))
		}
		require.Len(t, names(a), maxNamesOfAddress)
		for i := range 100 {
			require.NoError(t, z.Remove(fmt.Sprint("n", i)))
		}
		require.Empty(t, names(a))
	})
}

func TestAZoneHoldsWhatItWasTold(t *testing.T) {
	// An oracle of plain maps against random changes, some of which fail half way.
	random := rand.New(rand.NewPCG(3, 4))
	z := emptyZone(t)
	empty := all(z)
	type key struct{ name, data string }
	oracle := make(map[key]bool)
	someName := func() string {
		labels := []string{"a", "b", "c", "*"}
		name := labels[random.IntN(4)]
		for range random.IntN(3) {
			name += "." + labels[random.IntN(3)]
		}
		return name
	}
	someAddr := func() netip.Addr {
		return netip.AddrFrom4([4]byte{10, byte(199 + random.IntN(3)), 0, byte(random.IntN(4))})
	}
	fail := errors.New("no")
	for range 1000 {
		next := make(map[key]bool)
		for k := range oracle {
			next[k] = true
		}
		forget := func(name string) {
			for k := range next {
				if k.name == name {
					delete(next, k)
				}
			}
		}
		before, serial := all(z), z.Serial()
		aborted := random.IntN(4) == 0
		err := z.Update(func(tx *Tx) error {
			for range 1 + random.IntN(4) {
				name, a := someName(), someAddr()
				var err error
				switch random.IntN(4) {
				case 0:
					err = tx.Add(Record{Name: name, Data: Address(a)})
					next[key{name, a.String()}] = true
				case 1:
					err = tx.Delete(Record{Name: name, Data: Address(a)})
					delete(next, key{name, a.String()})
				case 2:
					err = tx.Remove(name)
					forget(name)
				case 3:
					err = tx.SetAddresses(name, a)
					forget(name)
					next[key{name, a.String()}] = true
				}
				require.NoError(t, err)
			}
			if aborted {
				return fail
			}
			return nil
		})
		if aborted {
			require.ErrorIs(t, err, fail)
			require.Equal(t, before, all(z))
			require.Equal(t, serial, z.Serial())
			continue
		}
		require.NoError(t, err)
		oracle = next
		require.Equal(t, len(oracle), z.Len())
		var want []string
		ptr := make(map[string]bool)
		for k := range oracle {
			want = append(want, fmt.Sprintf("%s.overlay.internal. 30s dnsd.Address %v", k.name, Address(addr(k.data))))
			if k.name[0] != '*' {
				ptr[fmt.Sprintf("%s 30s dnsd.PTR %s.overlay.internal.", nameText(reverseName(addr(k.data))), k.name)] = true
			}
		}
		for p := range ptr {
			want = append(want, p)
		}
		slices.Sort(want)
		got := all(z)
		if len(want) == 0 {
			want = nil
		}
		require.Equal(t, want, got)
	}
	require.NoError(t, z.Update(func(tx *Tx) error {
		for k := range oracle {
			if err := tx.Remove(k.name); err != nil {
				return err
			}
		}
		return nil
	}))
	require.Equal(t, empty, all(z))
	count := 0
	z.now.Load().tree.each(func(*owner) bool { count++; return true })
	require.Equal(t, 6, count, "no name stays that nothing needs: two apexes and four names above them")
}

func TestATransactionIsSeenAsAWhole(t *testing.T) {
	z := emptyZone(t)
	a, b := addr("10.200.0.1"), addr("10.200.0.2")
	require.NoError(t, z.SetAddresses("x", a))
	require.NoError(t, z.SetAddresses("y", b))
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				snap := z.now.Load()
				get := func(text string) string {
					wire, _ := packName(text, z.origin)
					var n name
					n.read([]byte(wire))
					o, _ := snap.match(&n)
					return snap.find(o, dns.TypeA).wire
				}
				if get("x") == get("y") {
					panic("half of a transaction was seen")
				}
			}
		})
	}
	for range 2000 {
		a, b = b, a
		require.NoError(t, z.Update(func(tx *Tx) error {
			return errors.Join(tx.SetAddresses("x", a), tx.SetAddresses("y", b))
		}))
	}
	close(stop)
	readers.Wait()
}

func TestChangesThatCannotBe(t *testing.T) {
	z := emptyZone(t)
	require.NoError(t, z.Add(Record{Name: "alias", Data: CNAME("web")}))
	require.NoError(t, z.SetAddresses("web", addr("10.200.0.1")))
	before, serial := all(z), z.Serial()
	long := strings.Repeat("x", 63)
	for _, c := range []struct {
		why    string
		record Record
		is     error
	}{
		{"a name outside the zone", Record{Name: "web.example.com.", Data: TXT{"x"}}, ErrName},
		{"a name above the zone", Record{Name: "internal.", Data: TXT{"x"}}, ErrName},
		{"an address outside the reverse zones", Record{Name: "1.0.0.127.in-addr.arpa.", Data: PTR("x")}, ErrName},
		{"a label of 64 bytes", Record{Name: long + "x", Data: TXT{"x"}}, ErrName},
		{"a name of 256 bytes", Record{Name: long + "." + long + "." + long + "." + long, Data: TXT{"x"}}, ErrName},
		{"an empty label", Record{Name: "a..b", Data: TXT{"x"}}, ErrName},
		{"an empty first label", Record{Name: ".a", Data: TXT{"x"}}, ErrName},
		{"a target that is no name", Record{Name: "a", Data: SRV{Target: "a..b"}}, ErrName},
		{"no data", Record{Name: "a"}, ErrRecord},
		{"no address", Record{Name: "a", Data: Address{}}, ErrRecord},
		{"an address with a zone", Record{Name: "a", Data: Address(addr("fe80::1%eth0"))}, ErrRecord},
		{"no text", Record{Name: "a", Data: TXT{}}, ErrRecord},
		{"a text of 256 bytes", Record{Name: "a", Data: TXT{strings.Repeat("x", 256)}}, ErrRecord},
		{"a record beside an alias", Record{Name: "alias", Data: TXT{"x"}}, ErrRecord},
		{"an alias beside a record", Record{Name: "web", Data: CNAME("x")}, ErrRecord},
		{"a second alias", Record{Name: "alias", Data: CNAME("x")}, ErrRecord},
		{"an alias at the apex", Record{Name: "@", Data: CNAME("x")}, ErrRecord},
	} {
		t.Run(c.why, func(t *testing.T) {
			err := z.Add(c.record)
			require.ErrorIs(t, err, c.is)
			require.Equal(t, before, all(z))
			require.Equal(t, serial, z.Serial())
		})
	}
	require.Error(t, z.Add(Record{Name: "a", TTL: -1, Data: TXT{"x"}}))
	require.Error(t, z.Add(Record{Name: "a", TTL: 1<<63 - 1, Data: TXT{"x"}}))
	require.NoError(t, z.Set(Record{Name: "alias", Data: CNAME("other")}), "Set replaces the one there is")

	t.Run("names in data are the same in either case", func(t *testing.T) {
		require.NoError(t, z.Add(Record{Name: "_s", Data: SRV{Port: 1, Target: "web"}}))
		require.NoError(t, z.Add(Record{Name: "_s", Data: SRV{Port: 1, Target: "WEB"}}))
		require.NoError(t, z.Add(Record{Name: "_s", Data: SRV{Port: 2, Target: "web"}}))
		records, err := z.Lookup("_s")
		require.NoError(t, err)
		require.Len(t, records, 2)
		require.NoError(t, z.Delete(Record{Name: "_S", Data: SRV{Port: 1, Target: "Web.Overlay.Internal."}}))
		require.NoError(t, z.Delete(Record{Name: "_s", Data: SRV{Port: 3, Target: "web"}}), "there is none")
		records, err = z.Lookup("_s")
		require.NoError(t, err)
		require.Equal(t, []Record{{"_s.overlay.internal.", 30 * time.Second, SRV{Port: 2, Target: "web.overlay.internal."}}}, records)
	})
	t.Run("more than fits an answer", func(t *testing.T) {
		err := z.Update(func(tx *Tx) error {
			for i := range 300 {
				if err := tx.Add(Record{Name: "big", Data: TXT{strings.Repeat("x", 250), fmt.Sprint(i)}}); err != nil {
					return err
				}
			}
			return nil
		})
		require.ErrorIs(t, err, ErrRecord)
	})
	t.Run("more than the zone holds", func(t *testing.T) {
		z, err := NewZone(ZoneConfig{Origin: "z", MaxRecords: 2})
		require.NoError(t, err)
		require.NoError(t, z.SetAddresses("a", addr("10.0.0.1"), addr("10.0.0.2")))
		require.ErrorIs(t, z.SetAddresses("b", addr("10.0.0.3")), ErrFull)
		require.NoError(t, z.SetAddresses("a", addr("10.0.0.1")))
		require.NoError(t, z.SetAddresses("b", addr("10.0.0.3")))
	})
	for _, cfg := range []ZoneConfig{
		{}, {Origin: "."}, {Origin: "a..b"}, {Origin: "z", TTL: -1}, {Origin: "z", NegativeTTL: -1},
		{Origin: "z", Nameservers: []string{"a..b"}}, {Origin: "z", Mailbox: "a..b"},
		{Origin: "z", Reverse: []netip.Prefix{{}}},
	} {
		_, err := NewZone(cfg)
		require.Error(t, err)
	}
}

func TestRecordsKeepNamesAndTimesOfTheirOwn(t *testing.T) {
	z := emptyZone(t)
	require.NoError(t, z.Add(Record{Name: "a", TTL: 1500 * time.Millisecond, Data: TXT{"one"}}))
	require.NoError(t, z.Add(Record{Name: "A.overlay.INTERNAL.", TTL: time.Minute, Data: TXT{"two"}}))
	records, err := z.Lookup("a")
	require.NoError(t, err)
	require.Equal(t, []Record{
		{"a.overlay.internal.", time.Minute, TXT{"one"}}, // RFC 2181 section 5.2: one TTL
		{"a.overlay.internal.", time.Minute, TXT{"two"}},
	}, records)
	require.NoError(t, z.Add(Record{Name: `we\.ird`, Data: SRV{1, 2, 3, "@"}}))
	records, err = z.Lookup(`we\.ird`)
	require.NoError(t, err)
	require.Equal(t, []Record{{`we\.ird.overlay.internal.`, 30 * time.Second, SRV{1, 2, 3, "overlay.internal."}}}, records)
	records, err = z.Lookup("nothing")
	require.NoError(t, err)
	require.Empty(t, records)
	require.Equal(t, "overlay.internal.", z.Origin())
}

func TestReverseZonesOfAPrefix(t *testing.T) {
	for prefix, want := range map[string][]string{
		"10.200.0.0/16":    {"200.10.in-addr.arpa."},
		"10.0.0.0/8":       {"10.in-addr.arpa."},
		"0.0.0.0/0":        {"in-addr.arpa."},
		"10.1.2.3/32":      {"3.2.1.10.in-addr.arpa."},
		"10.1.2.4/31":      {"4.2.1.10.in-addr.arpa.", "5.2.1.10.in-addr.arpa."},
		"172.16.0.0/14":    {"16.172.in-addr.arpa.", "17.172.in-addr.arpa.", "18.172.in-addr.arpa.", "19.172.in-addr.arpa."},
		"fd00:200::/48":    {"0.0.0.0.0.0.2.0.0.0.d.f.ip6.arpa."},
		"fd00:200::/47":    {"0.0.0.0.0.0.2.0.0.0.d.f.ip6.arpa.", "1.0.0.0.0.0.2.0.0.0.d.f.ip6.arpa."},
		"2001:db8::ff/128": {"f.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."},
	} {
		var got []string
		for _, wire := range reverseZones(netip.MustParsePrefix(prefix)) {
			got = append(got, nameText(wire))
		}
		require.Equal(t, want, got, prefix)
	}
	require.Len(t, reverseZones(netip.MustParsePrefix("10.0.0.0/9")), 128)
	for _, a := range []string{"10.1.2.3", "2001:db8::ff"} {
		want, err := dns.ReverseAddr(a)
		require.NoError(t, err)
		require.Equal(t, want, nameText(reverseName(addr(a))))
	}
}
