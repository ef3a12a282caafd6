package daemon

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/overlayd/overlayd/overlay"
)

// roaming is where peers called from last, kept in a file of the data folder: after
// a restart the node goes on talking to those that it was given no endpoint of, who
// else would not notice for a quarter of a minute that their sessions are gone. It
// is as good as it is: the file may be missing, old or damaged.
type roaming struct {
	path string

	mu      sync.Mutex
	before  map[string]netip.AddrPort // of the run before, by scope and key
	written []byte
}

// roamingFile is in the data folder.
const roamingFile = "endpoints.json"

// load reads the file.
func (r *roaming) load(dir string) {
	r.path = filepath.Join(dir, roamingFile)
	text, err := os.ReadFile(r.path)
	if err == nil && json.Unmarshal(text, &r.before) == nil {
		r.written = text
	}
}

func placeOf(scope string, key overlay.PublicKey) string { return scope + "/" + key.String() }

// take is where a peer called from in the run before, once.
func (r *roaming) take(scope string, key overlay.PublicKey) netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	place := placeOf(scope, key)
	at := r.before[place]
	delete(r.before, place)
	return at
}

// saveRoaming writes down where peers are now.
func (d *Daemon) saveRoaming() {
	now := make(map[string]netip.AddrPort)
	for _, v := range d.devices() {
		for _, p := range v.node().Peers() {
			if p.Addr.IsValid() && !p.LastHandshake.IsZero() {
				now[placeOf(v.scope, p.PublicKey)] = p.Addr
			}
		}
	}
	text, err := json.Marshal(now)
	if err != nil {
		return
	}
	r := &d.roaming
	r.mu.Lock()
	defer r.mu.Unlock()
	if bytes.Equal(text, r.written) || len(now) == 0 && r.written == nil {
		return
	}
	if err := replaceFile(r.path, text); err != nil {
		d.log.Debug("where peers are was not written down", "err", err)
		return
	}
	r.written = text
}

// replaceFile writes a file whole or not at all. It need not survive a power cut.
func replaceFile(path string, text []byte) error {
	unfinished := path + ".new" // whoever was killed here left it for us
	err := os.WriteFile(unfinished, text, 0o600)
	if err == nil {
		err = os.Rename(unfinished, path)
	}
	if err != nil {
		os.Remove(unfinished)
	}
	return err
}
