package daemon

import (
	"fmt"
	"slices"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/packet"
)

// status takes no lock that is held while anything is waited for.
func (d *Daemon) status() wire.Status {
	g := d.global.load()
	all := d.allServices()
	s := wire.Status{
		PublicKey:    d.public.String(),
		OverlayCIDR:  join(g.Cluster),
		SliceCIDR:    join(g.Slice),
		ServiceCount: uint32(len(all)),
		Version:      d.config.Version,
		BootID:       d.bootID,
		Mode:         string(d.mode),
		Uptime:       uint64(time.Since(d.started) / time.Second),
		MTU:          tunnelMTU, // of bridges too, which may be there first
		Leases:       d.poolStatus(g, all),
		DNS:          d.dnsStatus(),
		Drops:        d.drops(),
		Warnings:     d.warnings(),
	}
	s.NAT = d.natStatus()
	if g.device != nil {
		s.Interface = g.device.name
		s.NodeIP = g.Addrs[0].Addr()
		s.Addresses = slices.Clone(g.Addrs)
		s.ListenPort = g.Port
		s.Peers = g.device.peers()
		s.PeerCount = uint32(len(s.Peers))
	}
	for _, of := range all {
		if v := of.device; v != nil {
			o := of.overlay()
			s.DedicatedServices = append(s.DedicatedServices, wire.DedicatedService{
				Service:    of.Name,
				Interface:  v.name,
				PublicKey:  o.WGPublicKey,
				ListenPort: o.WGPort,
				OverlayIP:  o.OverlayIP,
				Subnet:     o.Subnet,
				PeerCount:  uint32(len(v.node().Peers())),
			})
		}
	}
	for _, n := range d.attachmentCount() {
		s.AttachmentCount += uint32(n)
	}
	return s
}

// drops are how many packets all devices dropped, by reason, those there were.
func (d *Daemon) drops() []wire.DropCount {
	var sum [packet.NumReasons]uint64
	for _, v := range d.devices() {
		for why, n := range v.node().Stats().Drops {
			sum[why] += n
		}
	}
	var list []wire.DropCount
	for why, n := range sum {
		if n > 0 {
			list = append(list, wire.DropCount{Reason: packet.Reason(why).String(), Packets: n})
		}
	}
	return list
}

// warnings are what does not work as it should, or not as asked, a sentence each.
func (d *Daemon) warnings() []string {
	var list []string
	if d.noTUN != "" {
		list = append(list, "the node is rootless: "+d.noTUN)
	}
	if key := d.node.load().ClusterKey; key != "" && key != d.public.String() {
		list = append(list, fmt.Sprintf("the cluster knows this node by the public key %s, but its own is %s: give the cluster this one, or peers cannot reach the node", key, d.public))
	}
	list = append(list, d.faultWarnings()...)
	list = append(list, d.routes.warnings()...)
	return list[:min(len(list), maxWarnings)]
}
