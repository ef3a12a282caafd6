package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/overlayd/overlayd/daemon/wire"
)

func (a *app) statusCommand() *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how the node is",
		Long: `Show how the node is: its device and addresses, its peers and their traffic, the
pools of addresses, names, and what is wrong.

With --watch it is shown again every second until Ctrl-C: in place on a terminal,
else one after the other, and with --json one object a line.`,
		Args: arguments(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return a.watch(cmd.Context())
			}
			s, err := asked[wire.Status](cmd.Context(), a, wire.StatusRequest{})
			if err != nil {
				return err
			}
			return printed(a, s, (*page).status)
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "show it until Ctrl-C")
	return c
}

// mostRows is how much of a list status shows, to stay on one screen; the list's
// own subcommand shows all.
const mostRows = 8

// status appends how a node is.
func (p *page) status(s wire.Status) {
	p.headline(s)
	p.WriteString("\n")
	p.node(s)
	p.peers(s.Peers, mostRows)
	p.dedicated(s.DedicatedServices)
	p.pools(s.Leases)
	p.drops(s.Drops)
	p.warnings(s.Warnings)
}

// headline is what runs, and for how long.
func (p *page) headline(s wire.Status) {
	words := []string{p.tint(bold, strings.TrimSpace("overlayd "+s.Version))}
	if s.Mode != "" {
		words = append(words, p.tint(plain, s.Mode))
	}
	if s.Version != "" {
		words = append(words, "up "+ageText(s.Uptime))
	}
	if n := len(s.Warnings); n > 0 {
		words = append(words, p.tint(warn, counted(n, "warning", "warnings")))
	}
	p.WriteString(strings.Join(words, ", ") + "\n")
}

// node is what there is one of.
func (p *page) node(s wire.Status) {
	fact := func(name string, values ...string) {
		if text := joinWords(values); text != "" {
			p.printf("  %s  %s\n", p.tint(faint, fmt.Sprintf("%-9s", name)), clean(text))
		}
	}
	if s.Interface == "" && !s.NodeIP.IsValid() {
		fact("overlay", "not set up", optional("would be ", s.OverlayCIDR))
	} else {
		fact("interface", s.Interface, optional("UDP port ", portText(s.ListenPort)), optional("MTU ", number(s.MTU)))
		addresses := joined(s.Addresses)
		if addresses == "" {
			addresses = addrText(s.NodeIP)
		}
		fact("address", addresses)
		fact("overlay", s.OverlayCIDR, optional("of which here ", s.SliceCIDR))
	}
	fact("key", s.PublicKey)
	fact("here", counted(int(s.ServiceCount), "service", "services"),
		counted(int(s.AttachmentCount), "container attached", "containers attached"),
		optional("", ports(s.NAT.PortCount)))
	if d := s.DNS; d.Zone != "" {
		fact("names", fmt.Sprintf("%d in %s", d.Names, d.Zone), optional("served at ", few(d.Addresses)),
			counted(int(d.Queries), "query", "queries"), optional("", failures(d.Failures)))
	}
	if n := s.NAT; n.Enabled {
		fact("nat", "traversal wanted, of which overlayd has none yet", optional("NAT ", n.Kind), optional("reached at ", n.Endpoint),
			optional("last looked ", ago(sinceText(p.app.now(), n.LastTick))))
	}
}

// peers is the peers of the node's own device, most of them at most; 0 is all.
func (p *page) peers(all []wire.PeerStatus, most int) {
	if len(all) == 0 {
		return
	}
	shown := all
	if most > 0 && len(all) > most {
		shown = all[:most]
	}
	rows := make([][]cell, len(shown))
	for i, s := range shown {
		rows[i] = p.peer(s)
	}
	p.WriteString("\n")
	p.table(peerColumns, rows)
	p.more(len(all)-len(shown), "peers")
}

var peerColumns = []column{
	{title: "PEER"}, {title: "ENDPOINT"}, {title: "HEALTH"}, {title: "HANDSHAKE", right: true},
	{title: "RECEIVED", right: true}, {title: "SENT", right: true}, {title: "ALLOWED IPS"},
}

func (p *page) peer(s wire.PeerStatus) []cell {
	endpoint := s.Endpoint
	if s.Address.IsValid() {
		endpoint = fmt.Sprintf("%s:%d", s.Address, s.Port)
		if s.Address.Is6() {
			endpoint = fmt.Sprintf("[%s]:%d", s.Address, s.Port)
		}
	}
	health := cell{"silent", bad}
	if s.Healthy {
		health = cell{"ok", good}
	}
	return []cell{
		text(keyText(s.PublicKey)), text(endpoint), health, text(p.handshake(s)),
		text(bytesText(s.RxBytes)), text(bytesText(s.TxBytes)), text(strings.ReplaceAll(s.AllowedIPs, ",", " ")),
	}
}

// handshake is how long ago the last one was: by the daemon's clock, if it says.
func (p *page) handshake(s wire.PeerStatus) string {
	switch {
	case s.LastHandshake <= 0:
		return "never"
	case s.HandshakeAge > 0:
		return ageText(s.HandshakeAge) + " ago"
	}
	return ago(sinceText(p.app.now(), s.LastHandshake))
}

func (p *page) dedicated(all []wire.DedicatedService) {
	if len(all) == 0 {
		return
	}
	rows := make([][]cell, 0, mostRows)
	for _, s := range all[:min(len(all), mostRows)] {
		rows = append(rows, texts(s.Service, s.Interface, portText(s.ListenPort), addrText(s.OverlayIP), s.Subnet,
			strconv.Itoa(int(s.PeerCount)), keyText(s.PublicKey)))
	}
	p.WriteString("\n")
	p.table([]column{{title: "DEDICATED"}, {title: "INTERFACE"}, {title: "PORT", right: true}, {title: "ADDRESS"},
		{title: "SUBNET"}, {title: "PEERS", right: true}, {title: "KEY"}}, rows)
	p.more(len(all)-len(rows), "services")
}

func (p *page) pools(all []wire.PoolStatus) {
	if len(all) == 0 {
		return
	}
	rows := make([][]cell, 0, mostRows)
	for _, s := range all[:min(len(all), mostRows)] {
		used := text(strconv.FormatUint(s.Used, 10))
		if s.Used >= s.Size-s.Size/10 { // nine tenths
			used.tone = warn
		}
		owner := s.Service
		if owner == "" {
			owner = "this node"
		}
		rows = append(rows, []cell{text(s.Pool.String()), text(owner), used, text(size(s.Size))})
	}
	p.WriteString("\n")
	p.table([]column{{title: "POOL"}, {title: "OF"}, {title: "USED", right: true}, {title: "SIZE", right: true}}, rows)
	p.more(len(all)-len(rows), "leases")
}

// drops is what was dropped and why.
func (p *page) drops(all []wire.DropCount) {
	if len(all) == 0 {
		return
	}
	words := make([]string, 0, mostRows)
	for _, d := range all[:min(len(all), mostRows)] {
		words = append(words, fmt.Sprintf("%s %d", clean(d.Reason), d.Packets))
	}
	p.printf("\n%s  %s\n", p.tint(bold, "DROPPED"), strings.Join(words, ", "))
}

// warnings come last, where a person looks first.
func (p *page) warnings(all []string) {
	if len(all) == 0 {
		return
	}
	p.printf("\n%s\n", p.tint(bold, "WARNINGS"))
	for _, w := range all {
		p.printf("  %s %s\n", p.tint(warn, "!"), clean(w))
	}
}

// more says what is not shown, and how to see it.
func (p *page) more(n int, command string) {
	if n > 0 {
		p.WriteString(p.tint(faint, fmt.Sprintf("and %d more: overlayd %s", n, command)) + "\n")
	}
}

// joinWords joins those that say anything.
func joinWords(words []string) string {
	var b strings.Builder
	for _, w := range words {
		if w == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(w)
	}
	return b.String()
}

// few is a list's first values, and how many more there are.
func few[T fmt.Stringer](all []T) string {
	const most = 2
	if len(all) <= most+1 {
		return joined(all)
	}
	return fmt.Sprintf("%s and %d more", joined(all[:most]), len(all)-most)
}

// optional is a value with words before it, or nothing.
func optional(before, value string) string {
	if value == "" {
		return ""
	}
	return before + value
}

func ago(age string) string {
	if age == "" {
		return ""
	}
	return age + " ago"
}

func number(n uint32) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(int(n))
}

func ports(n uint32) string {
	if n == 0 {
		return ""
	}
	return counted(int(n), "port published", "ports published")
}

func failures(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d failed", n)
}

// size is how many addresses a pool has, 2^64-1 standing for all above.
func size(n uint64) string {
	if n == 1<<64-1 {
		return "2^64 or more"
	}
	if n >= 1<<32 {
		return fmt.Sprintf("%.2g", float64(n))
	}
	return strconv.FormatUint(n, 10)
}
