package daemon

import (
	"context"
	"log/slog"
	"time"

	"github.com/overlayd/overlayd/daemon/wire"
)

// opTime bounds how long a request may take: more than what anything waits for.
const opTime = time.Minute

// handle does what a request asks, and logs when that fails.
func (d *Daemon) handle(ctx context.Context, req wire.Request) (wire.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, opTime)
	defer cancel()
	begin := time.Now()
	res, err := d.do(ctx, req)
	if err != nil {
		level := slog.LevelInfo
		if codeOf(err) == wire.Internal {
			level = slog.LevelError
		}
		d.log.Log(ctx, level, "request failed", "op", req.Op(), "code", string(codeOf(err)), "took", time.Since(begin), "err", err)
	}
	return res, err
}

// do does what a request asks.
func (d *Daemon) do(ctx context.Context, req wire.Request) (wire.Response, error) {
	switch r := req.(type) {
	case wire.SetLocalNodeID:
		return done(d.setLocalNodeID(ctx, r))
	case wire.SetLocalWGPubkey:
		return done(d.setLocalWGPubkey(ctx, r))
	case wire.SetupGlobalOverlay:
		return result(d.setupGlobal(ctx, r))
	case wire.TeardownGlobalOverlay:
		return done(d.teardownGlobal(ctx))
	case wire.SetupServiceOverlay:
		return result(d.setupService(ctx, r))
	case wire.TeardownServiceOverlay:
		return done(d.teardownService(ctx, r))
	case wire.AllocateIP:
		return result(d.allocateIP(ctx, r))
	case wire.ReleaseIP:
		return done(d.releaseIP(ctx, r))
	case wire.AttachContainer:
		began := time.Now()
		attached, err := d.attach(ctx, r)
		if err == nil {
			d.meter.attached(time.Since(began))
		}
		return attached, err
	case wire.DetachContainer:
		return done(d.detach(ctx, r))
	case wire.AddPeer:
		return done(d.addPeer(ctx, r))
	case wire.RemovePeer:
		return done(d.removePeer(ctx, r))
	case wire.AddAllowedIP:
		return done(d.addAllowedIP(ctx, r))
	case wire.RemoveAllowedIP:
		return done(d.removeAllowedIP(ctx, r))
	case wire.RegisterDNS:
		return done(d.registerDNS(ctx, r))
	case wire.UnregisterDNS:
		return done(d.unregisterDNS(ctx, r))
	case wire.StatusRequest:
		return d.status(), nil
	case wire.NATTick:
		return done(d.natTick(ctx))
	}
	return d.handleExtension(ctx, req)
}

// handleExtension does what only later daemons of the contract can be asked.
func (d *Daemon) handleExtension(ctx context.Context, req wire.Request) (wire.Response, error) {
	switch r := req.(type) {
	case wire.ListAttachments:
		return result(d.listAttachments(r))
	case wire.ListServices:
		return result(d.listServices())
	case wire.ListLeases:
		return result(d.listLeases(r))
	case wire.ListPeers:
		return result(d.listPeers(r))
	case wire.ListDNS:
		return result(d.listDNS())
	case wire.SetPeers:
		return result(d.setPeers(ctx, r))
	case wire.PublishPort:
		return result(d.publishPort(ctx, r))
	case wire.UnpublishPort:
		return done(d.unpublishPort(ctx, r))
	case wire.ListPorts:
		return result(d.listPorts())
	case wire.Resolve:
		return result(d.resolve(r))
	case wire.Explain:
		return result(d.explain(r))
	case wire.Ping:
		return result(d.ping(ctx, r))
	}
	// Hello, subscribe_events and shutdown are the server's.
	return nil, failed(wire.UnknownOp, "%s is not an operation of this daemon", req.Op())
}

// done is the response to what has no result but that it is done.
func done(err error) (wire.Response, error) {
	if err != nil {
		return nil, err
	}
	return wire.OK{}, nil
}

// result is the response to what has one.
func result[R wire.Response](r R, err error) (wire.Response, error) {
	if err != nil {
		return nil, err
	}
	return r, nil
}
