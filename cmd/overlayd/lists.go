package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/overlayd/overlayd/daemon/wire"
)

// listing is a subcommand that asks for a list, of a service or of all, and shows
// it. ask is given the service, "" for all.
func listing[R wire.Response](a *app, c cobra.Command, ask func(service string) wire.Request, show func(p *page, res R)) *cobra.Command {
	if c.Args == nil {
		c.Args = arguments(1, "SERVICE")
		c.Use += " [SERVICE]"
		c.ValidArgsFunction = a.completeService
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		service := ""
		if len(args) > 0 {
			if service = args[0]; service == "" {
				return misused("the name of the service is empty")
			}
		}
		res, err := asked[R](cmd.Context(), a, ask(service))
		if err != nil {
			return err
		}
		return printed(a, res, show)
	}
	return &c
}

func (a *app) peersCommand() *cobra.Command {
	return listing(a, cobra.Command{
		Use:   "peers",
		Short: "Show the WireGuard peers, and how they are",
		Long:  "Show the WireGuard peers: of all devices, or of the service's own one.",
	}, func(service string) wire.Request {
		if service != "" {
			return wire.ListPeers{Scope: wire.ServiceScope{Service: service}}
		}
		return wire.ListPeers{}
	}, func(p *page, res wire.Peers) {
		rows := make([][]cell, len(res.Peers))
		for i, s := range res.Peers {
			device := "this node"
			if scope, ok := s.Scope.(wire.ServiceScope); ok {
				device = scope.Service
			}
			rows[i] = append([]cell{text(device)}, p.peer(s.PeerStatus)...)
			rows[i][1] = text(s.PublicKey) // in full, to be copied
		}
		p.list("peers", append([]column{{title: "OF"}}, peerColumns...), rows)
	})
}

func (a *app) servicesCommand() *cobra.Command {
	return listing(a, cobra.Command{
		Use:   "services",
		Short: "Show the services that are set up",
		Args:  arguments(0),
	}, func(string) wire.Request {
		return wire.ListServices{}
	}, func(p *page, res wire.Services) {
		rows := make([][]cell, len(res.Services))
		for i, s := range res.Services {
			rows[i] = texts(s.Service, string(s.Mode), joined(s.Subnets), joined(s.Gateways), s.Name,
				strconv.Itoa(int(s.AttachmentCount)), s.Interface, portText(s.ListenPort), s.PublicKey)
		}
		p.list("services", []column{{title: "SERVICE"}, {title: "MODE"}, {title: "SUBNETS"}, {title: "GATEWAYS"}, {title: "BRIDGE"},
			{title: "CONTAINERS", right: true}, {title: "INTERFACE"}, {title: "PORT", right: true}, {title: "KEY"}}, rows)
	})
}

func (a *app) attachmentsCommand() *cobra.Command {
	return listing(a, cobra.Command{
		Use:   "attachments",
		Short: "Show the containers on the overlay",
	}, func(service string) wire.Request {
		return wire.ListAttachments{Service: service}
	}, func(p *page, res wire.Attachments) {
		rows := make([][]cell, len(res.Attachments))
		for i, s := range res.Attachments {
			addresses := joined(slices.DeleteFunc(s.Addresses, func(p netip.Prefix) bool { return p.Addr() == s.GlobalIP }))
			if addresses == "" {
				addresses = addrText(s.IP)
			}
			rows[i] = texts(handleText(s.Handle), s.Service, addresses, addrText(s.GlobalIP), s.Interface, s.HostInterface,
				sinceText(p.app.now(), s.Since))
		}
		p.list("containers", []column{{title: "CONTAINER"}, {title: "SERVICE"}, {title: "ADDRESSES"}, {title: "GLOBAL"},
			{title: "INTERFACE"}, {title: "ON THE HOST"}, {title: "SINCE", right: true}}, rows)
	})
}

func (a *app) leasesCommand() *cobra.Command {
	return listing(a, cobra.Command{
		Use:   "leases",
		Short: "Show the addresses that are given out, and to whom",
	}, func(service string) wire.Request {
		return wire.ListLeases{Service: service}
	}, func(p *page, res wire.Leases) {
		rows := make([][]cell, len(res.Leases))
		for i, s := range res.Leases {
			rows[i] = texts(s.IP.String(), s.Pool.String(), s.Kind, ownerText(s), sinceText(p.app.now(), s.Since))
		}
		p.list("leases", []column{{title: "ADDRESS"}, {title: "POOL"}, {title: "KIND"}, {title: "OWNER"}, {title: "SINCE", right: true}}, rows)
	})
}

func (a *app) dnsCommand() *cobra.Command {
	return listing(a, cobra.Command{
		Use:   "dns",
		Short: "Show the names that are served",
		Args:  arguments(0),
	}, func(string) wire.Request {
		return wire.ListDNS{}
	}, func(p *page, res wire.DNS) {
		rows := make([][]cell, len(res.Records))
		for i, r := range res.Records {
			rows[i] = texts(r.Name+"."+res.Zone, r.IP.String(), strconv.Itoa(int(r.TTL))+" s")
		}
		p.list("names in "+res.Zone, []column{{title: "NAME"}, {title: "ADDRESS"}, {title: "TTL", right: true}}, rows)
	})
}

func (a *app) portsCommand() *cobra.Command {
	return listing(a, cobra.Command{
		Use:   "ports",
		Short: "Show the published ports",
		Args:  arguments(0),
	}, func(string) wire.Request {
		return wire.ListPorts{}
	}, func(p *page, res wire.Ports) {
		rows := make([][]cell, len(res.Ports))
		for i, s := range res.Ports {
			host := "every address"
			if s.HostIP.IsValid() {
				host = s.HostIP.String()
			}
			rows[i] = texts(string(s.Proto), host, portText(s.HostPort), s.IP.String(), portText(s.TargetPort))
		}
		p.list("published ports", []column{{title: "PROTOCOL"}, {title: "HOST"}, {title: "PORT", right: true},
			{title: "CONTAINER"}, {title: "PORT", right: true}}, rows)
	})
}

// list is a table, or that there is nothing in it.
func (p *page) list(what string, columns []column, rows [][]cell) {
	if len(rows) == 0 {
		p.WriteString("No " + clean(what) + ".\n")
		return
	}
	p.table(columns, rows)
}

// ownerText is who has an address, a container as handleText has it.
func ownerText(l wire.Lease) string {
	if pid, err := strconv.ParseUint(l.Owner, 10, 32); err == nil && l.Kind == "container" {
		return handleText(wire.LinuxPID{PID: uint32(pid)})
	}
	return l.Owner
}

// handleText is what a container is known by.
func handleText(h wire.Handle) string {
	switch h := h.(type) {
	case wire.LinuxPID:
		return fmt.Sprintf("process %d", h.PID)
	case wire.WindowsContainer:
		return h.ContainerID
	case wire.GuestManaged:
		return "guest " + h.ID
	}
	return ""
}
