package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/netutil"
)

// Bounds of the server of metrics, which takes anybody.
const (
	metricsConns   = 16
	metricsTimeout = 10 * time.Second
	metricsIdle    = time.Minute
	metricsHeader  = 8 << 10 // bytes
)

// A metricsServer serves metrics, or, as nil, nothing.
type metricsServer struct {
	listener net.Listener
	server   *http.Server
	running  sync.WaitGroup
}

// listenMetrics listens on an address; on none for "". Its Close is to be called.
func listenMetrics(address string) (*metricsServer, error) {
	if address == "" {
		return nil, nil
	}
	if !strings.Contains(address, ":") {
		address = ":" + address
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, misused("--metrics-listen: %w", err)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return nil, misused("--metrics-listen: %q is no port: give one such as 9586, or an address such as 127.0.0.1:9586", port)
	}
	if host == "" {
		host = "127.0.0.1" // what is counted is nobody else's business, unless said so
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("listening for metrics, as --metrics-listen says: %w", err)
	}
	return &metricsServer{listener: netutil.LimitListener(l, metricsConns)}, nil
}

// url is where the metrics are; "" for nowhere.
func (m *metricsServer) url() string {
	if m == nil {
		return ""
	}
	return "http://" + m.listener.Addr().String() + "/metrics"
}

// serve begins to answer.
func (m *metricsServer) serve(metrics http.Handler, log *slog.Logger) {
	if m == nil {
		return
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", metrics)
	m.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: metricsTimeout,
		ReadTimeout:       metricsTimeout,
		WriteTimeout:      metricsTimeout,
		IdleTimeout:       metricsIdle,
		MaxHeaderBytes:    metricsHeader,
	}
	m.running.Go(func() {
		if err := m.server.Serve(m.listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics are no longer served", "error", err)
		}
	})
}

// Close ends the server, and answers under way with it.
func (m *metricsServer) Close() error {
	switch {
	case m == nil:
		return nil
	case m.server == nil:
		return m.listener.Close()
	}
	err := m.server.Close()
	m.running.Wait()
	return err
}
