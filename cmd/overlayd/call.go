package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/overlayd/overlayd/daemon/wire"
)

func (a *app) callCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "call OP [JSON|-]",
		Short: "Send any operation of the contract, and print its result as JSON",
		Long: `Send an operation of the contract, and print its result as JSON. The operation's
fields are a JSON object, given as an argument or, for "-", on standard input; an
operation that needs no fields needs no object.

Operations:
` + columns(wire.Ops(), 4),
		Example: `  overlayd call setup_global_overlay '{"deployment":"prod","instance_id":"1","cluster_cidr":"10.200.0.0/16","wg_port":51420,"nat_enabled":false}'
  overlayd call attach_container '{"handle":{"platform":"linux_pid","pid":4711},"service":"web","join_global":false}'
  overlayd call status | jq .peer_count`,
		Args:              arguments(1, "OP", "JSON"),
		ValidArgsFunction: completeOp,
		RunE: func(cmd *cobra.Command, args []string) error {
			fields, err := a.fields(args[1:])
			if err != nil {
				return err
			}
			r, err := wire.ParseRequest(args[0], fields)
			if err != nil {
				return &usageError{unknownOp(args[0], err)}
			}
			res, err := a.ask(cmd.Context(), r)
			if err != nil {
				return err
			}
			if err := a.printJSON(res); err != nil {
				return err
			}
			if _, ok := r.(wire.SubscribeEvents); ok {
				fmt.Fprintln(a.err, `overlayd: the subscription ends with this command: "overlayd events" shows events`)
			}
			return nil
		},
	}
}

// fields is the JSON object of a call.
func (a *app) fields(args []string) ([]byte, error) {
	if len(args) == 0 {
		return nil, nil
	}
	if args[0] != "-" {
		return []byte(args[0]), nil
	}
	data, err := io.ReadAll(io.LimitReader(a.in, wire.MaxFrame+1))
	if err != nil {
		return nil, fmt.Errorf("reading standard input: %w", err)
	}
	if len(data) > wire.MaxFrame {
		return nil, misused("standard input has more than %d bytes, which no request can have", wire.MaxFrame)
	}
	return data, nil
}

// columns lays words out in columns.
func columns(words []string, n int) string {
	width := 0
	for _, w := range words {
		width = max(width, len(w))
	}
	var b strings.Builder
	rows := (len(words) + n - 1) / n
	for row := range rows {
		var line strings.Builder
		for i := row; i < len(words); i += rows {
			fmt.Fprintf(&line, "  %-*s", width, words[i])
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n")
}

func (a *app) pingCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "ping IP",
		Short:             "Ask the daemon to ping an address on the overlay",
		Args:              arguments(0, "IP"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			ip, err := address(args[0])
			if err != nil {
				return err
			}
			pong, err := asked[wire.Pong](cmd.Context(), a, wire.Ping{IP: ip})
			if err != nil {
				return err
			}
			return printed(a, pong, func(p *page, pong wire.Pong) {
				where := "on this node"
				if pong.Pubkey != "" {
					where = "behind peer " + clean(pong.Pubkey)
				}
				p.printf("%s answered after %.3f ms, %s\n", pong.IP, float64(pong.RTT)/1000, where)
			})
		},
	}
}

func (a *app) explainCommand() *cobra.Command {
	var proto string
	var port uint16
	c := &cobra.Command{
		Use:   "explain SRC DST",
		Short: "Show what would become of a packet, and why",
		Long: `Show what would become of a packet from one address to another, step by step,
without sending it.`,
		Example:           "  overlayd explain 10.200.74.18 10.200.7.1 --proto tcp --port 80",
		Args:              arguments(0, "SRC", "DST"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := address(args[0])
			if err != nil {
				return err
			}
			dst, err := address(args[1])
			if err != nil {
				return err
			}
			switch wire.Proto(proto) {
			case "", wire.TCP, wire.UDP, wire.ICMP:
			default:
				return misused("--proto %s: it is tcp, udp or icmp", proto)
			}
			res, err := asked[wire.Explanation](cmd.Context(), a,
				wire.Explain{Src: src, Dst: dst, Proto: wire.Proto(proto), Port: port})
			if err != nil {
				return err
			}
			return printed(a, res, (*page).explanation)
		},
	}
	c.Flags().StringVar(&proto, "proto", "", "the packet's `protocol`: tcp, udp or icmp")
	c.Flags().Uint16Var(&port, "port", 0, "the `port` it is going to")
	complete(c, "proto", "tcp", "udp", "icmp")
	complete(c, "port")
	return c
}

func (p *page) explanation(res wire.Explanation) {
	tone := good
	if res.Verdict == "dropped" {
		tone = bad
	}
	p.WriteString(p.tint(tone, res.Verdict))
	if res.Reason != "" {
		p.WriteString(": " + clean(res.Reason))
	}
	p.WriteString("\n")
	width := 0
	for _, hop := range res.Path {
		width = max(width, len(clean(hop.Part)))
	}
	for _, hop := range res.Path {
		p.printf("  %-*s  %s\n", width, clean(hop.Part), clean(hop.Detail))
	}
}

// address is an argument that must be one.
func address(arg string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(arg)
	if err != nil || ip.Zone() != "" {
		return netip.Addr{}, misused("%q is not an IP address such as 10.200.7.1 or fd00:200::7", arg)
	}
	return ip, nil
}
