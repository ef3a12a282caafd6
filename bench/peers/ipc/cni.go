package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/overlayd/overlayd/bench/internal/report"
	"github.com/overlayd/overlayd/internal/testnet"
)

// A cni is a network namespace with a network of CNI's bridge plugin.
type cni struct {
	ns      *testnet.Namespace
	plugins string // the folder they are in
	config  []byte
}

func newCNI(dir, plugins, subnet string) (*cni, error) {
	data, err := os.MkdirTemp(dir, "cni-")
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
		"ipam": map[string]any{
			"type": "host-local", "dataDir": data,
			"ranges": [][]map[string]string{{{"subnet": subnet}}},
			"routes": []map[string]string{{"dst": "0.0.0.0/0"}},
		},
	})
	if err != nil {
		return nil, err
	}
	ns, err := testnet.OpenNamespace()
	return &cni{ns, plugins, config}, err
}

func (n *cni) close() error { return n.ns.Close() }

func (n *cni) add(ctx context.Context, c *container) error { return n.command(ctx, "ADD", c) }
func (n *cni) del(ctx context.Context, c *container) error { return n.command(ctx, "DEL", c) }

// command runs the bridge plugin, which runs host-local, as the specification's
// section 2 says.
func (n *cni) command(ctx context.Context, command string, c *container) error {
	cmd := exec.CommandContext(ctx, filepath.Join(n.plugins, "bridge"))
	cmd.Env = []string{
		"CNI_COMMAND=" + command, fmt.Sprintf("CNI_CONTAINERID=container-%d", c.pid()),
		fmt.Sprintf("CNI_NETNS=/proc/%d/ns/net", c.pid()), "CNI_IFNAME=eth0", "CNI_PATH=" + n.plugins, "PATH=" + os.Getenv("PATH"),
	}
	cmd.Stdin = bytes.NewReader(n.config)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var err error
	n.ns.Do(func() { err = cmd.Start() })
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w\n%s", command, err, report.LastLines(out.String(), 10))
	}
	return nil
}
