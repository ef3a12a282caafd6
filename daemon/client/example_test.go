package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/overlayd/overlayd/daemon/client"
	"github.com/overlayd/overlayd/daemon/wire"
)

func Example() {
	endpoint, stop := standIn()
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, client.Config{Endpoint: endpoint, Attempts: client.Impatient})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	at, err := c.AttachContainer(ctx, wire.AttachContainer{
		Handle:  wire.LinuxPID{PID: 31337},
		Service: "web",
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("attached at", at.IP)

	err = c.TeardownServiceOverlay(ctx, "api")
	if errors.Is(err, client.ErrNotFound) {
		fmt.Println(err)
	}
	// Output:
	// attached at 10.200.74.18
	// overlayd: teardown_service_overlay: no service "api" (not_found)
}

// standIn plays a daemon for one client.
func standIn() (endpoint string, stop func()) {
	dir, err := os.MkdirTemp("", "overlayd")
	if err != nil {
		log.Fatal(err)
	}
	endpoint = filepath.Join(dir, "s")
	l, err := net.Listen("unix", endpoint)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		answers := map[string]string{
			"hello":                    `{"result":"hello","version":1,"boot_id":"1","build":"example","platform":"linux/amd64","mode":"tun"}`,
			"attach_container":         `{"result":"attached","ip":"10.200.74.18"}`,
			"teardown_service_overlay": `{"result":"err","message":"no service \"api\"","code":"not_found"}`,
		}
		for {
			body, err := wire.ReadFrame(conn, nil)
			if err != nil {
				return
			}
			f, err := wire.Decode(body)
			if err != nil {
				return
			}
			r := f.(wire.RequestFrame)
			answer, err := wire.Decode(fmt.Appendf(nil, `{"frame":"response","id":%d,"response":%s}`, r.ID, answers[r.Request.Op()]))
			if err != nil {
				return
			}
			out, _ := wire.AppendFrame(nil, answer)
			if _, err := conn.Write(out); err != nil {
				return
			}
		}
	}()
	return endpoint, func() {
		l.Close()
		os.RemoveAll(dir)
	}
}
