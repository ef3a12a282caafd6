package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/internal/state"
	"github.com/overlayd/overlayd/internal/hostnet"
)

// A CleanupReport is what Cleanup removed.
type CleanupReport struct {
	Stopped  bool     `json:"stopped,omitempty"`  // a daemon ran, and was asked to end
	Links    []string `json:"links,omitempty"`    // the host's interfaces, by name
	Guards   int      `json:"guards,omitempty"`   // routes that kept what is for peers from leaving in the clear
	Firewall bool     `json:"firewall,omitempty"` // the table of rules
	Sysctls  []string `json:"sysctls,omitempty"`  // put back to what they were, unless somebody changed them meanwhile
	Records  int      `json:"records,omitempty"`  // services, attachments, peers, names and ports that were set up
}

// Cleanup removes everything of a daemon from the host, and from its data folder all
// that was set up; the folder keeps the node's key, and with it its identity. It is
// idempotent, and what is already gone is no error.
//
// The daemon must not run: while it does, the error says which process holds the
// folder. With stop it is asked to end first. Neither may another one that has taken
// over the same network, unless nothing there is of the folder's.
//
// Interfaces are known by their aliases. When the folder has no key, so that the
// installation cannot be told from others, all that carry the alias of any overlayd
// are removed.
func Cleanup(ctx context.Context, c Config, stop bool) (CleanupReport, error) {
	var report CleanupReport
	c, err := c.located()
	if err != nil {
		return report, err
	}
	if stop {
		if report.Stopped, err = endDaemon(ctx, c.Endpoint); err != nil {
			return report, err
		}
	}
	store, err := openForCleanup(ctx, c.DataDir, report.Stopped)
	if err != nil {
		return report, err
	}
	if store == nil {
		return report, cleanHost(&report, aliasPrefix, nil)
	}
	return report, errors.Join(cleanStore(&report, c.DataDir, store), store.Close())
}

// cleanStore removes what a data folder tells of, and then what it tells.
func cleanStore(report *CleanupReport, dir string, store *state.Store) error {
	recorded, err := store.Load()
	if err != nil {
		return err
	}
	prefix := aliasPrefix
	if id := recorded.Node.Installation; id != "" {
		prefix += id + ":"
	} else if store.HasNodeKey() {
		key, err := store.NodeKey()
		if err != nil {
			return err
		}
		prefix += installation(key.Public()) + ":"
	}
	if err := cleanHost(report, prefix, recorded.Node.Sysctls); err != nil {
		return err
	}
	if err := strikeAll(store, recorded); err != nil {
		return err
	}
	report.Records = len(recorded.Services) + len(recorded.Attachments) + len(recorded.Peers) + len(recorded.Records) + len(recorded.Ports)
	return errors.Join(removeFile(filepath.Join(dir, leaseFile)), removeFile(filepath.Join(dir, roamingFile)))
}

// endDaemon asks the daemon at an endpoint to end, and reports whether there was one.
func endDaemon(ctx context.Context, endpoint string) (bool, error) {
	if endpoint == "" {
		return false, nil
	}
	d, err := client.Dial(ctx, client.Config{Endpoint: endpoint, Attempts: -1, Name: "overlayd cleanup"})
	if errors.Is(err, client.ErrUnreachable) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer d.Close()
	if err := d.Shutdown(ctx); err != nil {
		return false, fmt.Errorf("the daemon was asked to end: %w", err)
	}
	return true, nil
}

// openForCleanup opens a data folder, nil if there is none. One that a daemon which
// was asked to end still has is waited for.
func openForCleanup(ctx context.Context, dir string, wait bool) (*state.Store, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for {
		store, err := state.Open(dir)
		var held *state.HeldError
		var damaged *state.DamagedError
		switch {
		case errors.As(err, &damaged):
			continue // it was set aside
		case !wait || !errors.As(err, &held):
			return store, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// cleanHost removes what the daemon made on the host, and puts back what it changed.
func cleanHost(report *CleanupReport, prefix string, sysctls map[string]string) error {
	host, err := hostnet.Open()
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	defer host.Close()
	links, err := host.Links()
	if err != nil {
		return err
	}
	if err := unattended(links, prefix); err != nil {
		return err
	}
	links = slices.DeleteFunc(links, func(l hostnet.Link) bool { return !strings.HasPrefix(l.Alias, prefix) })
	if err := host.Hold(); err != nil {
		var held *hostnet.HeldError
		if errors.As(err, &held) && len(links) == 0 && len(sysctls) == 0 {
			return nil // all that is there is the other's
		}
		return err
	}
	var errs []error
	for _, l := range links {
		if err := host.DeleteLink(l.Index); err != nil {
			errs = append(errs, fmt.Errorf("interface %s: %w", l.Name, err))
			continue
		}
		report.Links = append(report.Links, l.Name)
	}
	slices.Sort(report.Links)
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	has, err := host.HasFirewall()
	if err != nil && len(report.Links) == 0 && len(sysctls) == 0 {
		return nil // who may not even look has not set any up
	}
	guards, listed := host.Guards()
	if listed != nil {
		return listed
	}
	for _, p := range guards {
		if err := host.DeleteGuard(p); err != nil {
			return err
		}
		report.Guards++
	}
	if err == nil {
		err = host.RemoveFirewall() // a part of it may be there
		report.Firewall = err == nil && has
	}
	if err != nil {
		return err
	}
	if err := restoreSysctls(sysctls); err != nil {
		return fmt.Errorf("put the host's sysctls back: %w", err)
	}
	for name := range sysctls {
		report.Sysctls = append(report.Sysctls, name)
	}
	slices.Sort(report.Sysctls)
	return nil
}

// unattended refuses links of which one is of a daemon that runs: a device of one is
// there only as long as its process.
func unattended(links []hostnet.Link, prefix string) error {
	for _, l := range links {
		rest, ours := strings.CutPrefix(l.Alias, aliasPrefix)
		_, rest, _ = strings.Cut(rest, ":")
		kind, _, _ := strings.Cut(rest, ":")
		if ours && strings.HasPrefix(l.Alias, prefix) && (kind == kindGlobal || kind == kindDedicated) {
			return fmt.Errorf("an overlayd runs in this network namespace, which has the interface %s and another data folder: stop it, or name its folder", l.Name)
		}
	}
	return nil
}

// strikeAll takes everything that was set up off the record. What the cluster says
// of the node stays.
func strikeAll(store *state.Store, recorded state.State) error {
	return store.Update(func(tx *state.Tx) error {
		n := tx.Node()
		n.Global, n.Sysctls, n.DNSServer, n.DNSDomain = nil, nil, "", ""
		tx.SetNode(n)
		for _, s := range recorded.Services {
			tx.DeleteService(s.Name)
		}
		for _, p := range recorded.Peers {
			tx.DeletePeer(p.Service, p.PublicKey)
		}
		for _, a := range recorded.Attachments {
			tx.DeleteAttachment(a.ID)
		}
		for _, r := range recorded.Records {
			tx.DeleteRecord(r)
		}
		for _, p := range recorded.Ports {
			tx.DeletePort(p.Proto, p.HostIP, p.HostPort)
		}
		return nil
	})
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
