package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/forward"
	"github.com/miekg/dns"

	"github.com/overlayd/overlayd/dnsd"
)

// A childConfig is what a server that is a copy of this program is told.
type childConfig struct {
	Addr     netip.AddrPort
	Upstream string
}

func writeChild(dir string, addr netip.AddrPort, upstream string) error {
	text, err := json.Marshal(childConfig{addr, upstream})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "child.json"), text, 0o644)
}

// serveChild serves until the process is killed.
func serveChild(kind, dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "child.json"))
	if err != nil {
		return err
	}
	var cfg childConfig
	if err := json.Unmarshal(text, &cfg); err != nil {
		return err
	}
	switch kind {
	case "ours":
		err = serveOurs(cfg, filepath.Join(dir, "zone"))
	case "coredns":
		err = serveCoreDNS(cfg, filepath.Join(dir, "zone"))
	default:
		err = fmt.Errorf("serve: there is no %q", kind)
	}
	if err != nil {
		return err
	}
	select {}
}

func serveOurs(cfg childConfig, path string) error {
	// The load comes from one address.
	config := dnsd.Config{RatePerSource: -1, MaxInFlight: 1 << 16}
	if cfg.Upstream != "" {
		upstream, err := dnsd.ParseUpstream(cfg.Upstream)
		if err != nil {
			return err
		}
		config.Forward = &dnsd.Forward{Upstreams: []dnsd.Upstream{upstream}, CacheSize: 20_000}
	} else {
		zone, err := readZone(path)
		if err != nil {
			return err
		}
		config.Zones = []*dnsd.Zone{zone}
	}
	server, err := dnsd.New(config)
	if err != nil {
		return err
	}
	_, err = server.Listen(cfg.Addr.String())
	return err
}

// readZone takes the addresses of a zone file.
func readZone(path string) (*dnsd.Zone, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	zone, err := dnsd.NewZone(dnsd.ZoneConfig{Origin: origin})
	if err != nil {
		return nil, err
	}
	records := dns.NewZoneParser(file, origin, path)
	err = zone.Update(func(tx *dnsd.Tx) error {
		for rr, ok := records.Next(); ok; rr, ok = records.Next() {
			a, ok := rr.(*dns.A)
			if !ok {
				continue
			}
			addr, _ := netip.AddrFromSlice(a.A)
			if err := tx.Add(dnsd.Record{Name: a.Hdr.Name, Data: dnsd.Address(addr)}); err != nil {
				return err
			}
		}
		return records.Err()
	})
	return zone, err
}

func serveCoreDNS(cfg childConfig, path string) error {
	dnsserver.Directives = []string{"bind", "cache", "file", "forward"}
	dnsserver.Quiet, caddy.Quiet = true, true
	text := fmt.Sprintf(".:%d {\nbind %s\n", cfg.Addr.Port(), cfg.Addr.Addr())
	if cfg.Upstream != "" {
		text += fmt.Sprintf("cache {\nsuccess 20000\ndenial 20000\n}\nforward . %s\n", cfg.Upstream)
	} else {
		text += fmt.Sprintf("file %s %s\n", path, origin)
	}
	_, err := caddy.Start(caddy.CaddyfileInput{
		Filepath: "Corefile", Contents: []byte(text + "}\n"), ServerTypeName: "dns",
	})
	return err
}
