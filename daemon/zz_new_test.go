package daemon

import (
	"context"
	"path/filepath"
	"log/slog"
	"io"

	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/internal/hostnet"
	"github.com/overlayd/overlayd/ipam"
)

func newX(c Config) (*Daemon, error) {
	d := &Daemon{config: c, log: c.Logger, resolver: newResolver()}
	if d.log == nil { d.log = slog.New(slog.NewTextHandler(io.Discard, nil)) }
	d.ctx, d.stop = context.WithCancel(context.Background())
	var err error
	if d.store, err = state.Open(c.DataDir); err != nil { return nil, err }
	st, err := d.store.Load()
	if err != nil { return nil, err }
	if d.key, err = d.store.NodeKey(); err != nil { return nil, err }
	d.public = d.key.Public()
	g := state.Global{Cluster: defaultCluster}
	if st.Node.Global != nil { g = *st.Node.Global }
	if d.leases, err = ipam.Open(filepath.Join(c.DataDir, "leases.db"), ipam.Config{}); err != nil { return nil, err }
	if len(d.leases.Pools()) == 0 { for _, p := range g.Cluster { d.leases.AddPool(p) } }
	d.node.now.Store(&st.Node)
	d.global.view.Store(&globalView{Global: state.Global{Cluster: g.Cluster}})
	if d.host, err = hostnet.Open(); err != nil { return nil, err }
	if d.boot, err = hostnet.BootID(); err != nil { return nil, err }
	d.mode = ModeTUN
	if st.Node.Global != nil {
		v, err := d.openDevice("", d.globalTunnel(g)); if err != nil { return nil, err }
		d.publishGlobal(&globalView{g, v})
	}
	for _, s := range st.Services {
		p, _ := d.services.enter(s.Name)
		x := &service{Service: s, gateways: gatewaysOf(s.Subnets)}
		if err := d.bridge(x); err != nil { return nil, err }
		p.now.Store(x)
		d.services.exit(s.Name, p)
	}
	if err := d.repairAttachments(st.Attachments); err != nil { return nil, err }
	return d, nil
}

func (d *Daemon) closeX() error {
	d.stop()
	if v := d.global.load().device; v != nil { v.close() }
	d.running.Wait()
	d.leases.Close()
	d.store.Close()
	d.host.Close()
	return nil
}
