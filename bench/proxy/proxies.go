// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/plainproxy"
)

// A proxy is one way to the server.
type proxy struct {
	name string
	// command returns the command that starts it, and writes its files to the folder. It
	// is nil for the direct way.
	command func(b *bench, r *running, folder string) ([]string, error)
}

// proxies in the order in which they are measured.
var proxies = []proxy{
	{"direct", nil},
	{"nginx", nginx},
	{"caddy", caddy},
	{"llamaproxy", llamaproxy(true)},
	{"llamaproxy-metrics", llamaproxy(false)},
}

// ours is the one with the goals, and plain is what it is compared with.
const (
	direct = "direct"
	plain  = "nginx"
	ours   = "llamaproxy"
)

func proxyNames() string {
	names := make([]string, len(proxies))
	for i, p := range proxies {
		names[i] = p.name
	}
	return strings.Join(names, ", ")
}

// running is a proxy that runs.
type running struct {
	address  string // where clients connect
	upstream string // host:port of the server
	process  *child.Process
	output   child.Output

	// Of the collector alone:
	pprof   string
	metrics string // the URL that Prometheus would read
	spans   *sink
}

// start starts a proxy of the server at the given host and port, and waits until it
// listens.
func (p *proxy) start(ctx context.Context, b *bench, upstream, folder string) (_ *running, err error) {
	r := &running{upstream: upstream, address: upstream}
	if p.command == nil {
		return r, nil
	}
	if r.address, err = freeAddress(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	command, err := p.command(b, r, folder)
	if err != nil {
		return nil, err
	}
	command = append(onCore(b.proxyCore), command...)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+folder) // Caddy's
	if r.process, err = child.Start(cmd, &r.output); err != nil {
		return nil, err
	}
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.address)
		if err == nil {
			return r, conn.Close()
		}
		select {
		case <-r.process.Exited():
			return nil, fmt.Errorf("%s ended at its start:\n%s", p.name, r.output.String())
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r *running) close() {
	if r.process != nil {
		r.process.Kill()
	}
	if r.spans != nil {
		r.spans.Close()
	}
}

func freeAddress() (string, error) {
	port, err := freeport.Find(0)
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

func nginx(_ *bench, r *running, folder string) ([]string, error) {
	program, err := plainproxy.Find(plainproxy.Nginx)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(folder, "nginx.conf")
	return []string{program, "-p", folder, "-e", "stderr", "-c", path}, os.WriteFile(path, fmt.Appendf(nil, `
daemon off;
pid nginx.pid;
worker_processes 1;
worker_rlimit_nofile %d;
events { worker_connections 65536; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path       proxy;
    fastcgi_temp_path     fastcgi;
    uwsgi_temp_path       uwsgi;
    scgi_temp_path        scgi;
    server {
        listen %s;
        location / {
            proxy_pass http://%s;
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_read_timeout 1h;
            proxy_set_header Host $http_host;
        }
    }
}
`, maxFiles(), r.address, r.upstream), 0o600)
}

func caddy(_ *bench, r *running, folder string) ([]string, error) {
	program, err := plainproxy.Find(plainproxy.Caddy)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(folder, "Caddyfile")
	return []string{program, "run", "--adapter", "caddyfile", "--config", path}, os.WriteFile(path, fmt.Appendf(nil, `{
	admin off
	auto_https off
}
http://%s {
	reverse_proxy %s {
		flush_interval -1
		transport http {
			keepalive off
			dial_timeout 1m
		}
	}
}
`, r.address, r.upstream), 0o600)
}

// llamaproxy is the built collector, with its metrics at an address for Prometheus and
// its traces, if there are any, sent by OTLP.
func llamaproxy(traces bool) func(b *bench, r *running, folder string) ([]string, error) {
	return func(b *bench, r *running, folder string) ([]string, error) {
		pprof, err1 := freeAddress()
		metrics, err2 := freeAddress()
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		r.pprof, r.metrics = pprof, "http://"+metrics+"/metrics"
		type object = map[string]any
		names := func(s ...string) []string { return s }
		pipelines := object{"metrics": object{"receivers": names("llamaproxy"), "processors": names("memory_limiter"), "exporters": names("prometheus")}}
		exporters := object{"prometheus": object{"endpoint": metrics, "enable_open_metrics": true, "without_scope_info": true}}
		if traces {
			r.spans = newSink()
			pipelines["traces"] = object{"receivers": names("llamaproxy"), "processors": names("memory_limiter"), "exporters": names("otlp_http")}
			exporters["otlp_http"] = object{"endpoint": r.spans.URL}
		}
		config, err := json.Marshal(object{ // which is YAML, too
			"receivers": object{"llamaproxy": object{
				"endpoint": r.address,
				"upstream": object{"endpoint": "http://" + r.upstream},
			}},
			"processors": object{"memory_limiter": object{"check_interval": "1s", "limit_mib": 4000, "spike_limit_mib": 800}},
			"exporters":  exporters,
			"extensions": object{"pprof": object{"endpoint": pprof}},
			"service": object{
				"extensions": names("pprof"), "pipelines": pipelines,
				"telemetry": object{"metrics": object{"level": "none"}},
			},
		})
		if err != nil {
			return nil, err
		}
		path := filepath.Join(folder, "config.yaml")
		return []string{b.collector, "--config", path}, os.WriteFile(path, config, 0o600)
	}
}

// sink takes what an OTLP exporter sends, and does not look into it: it shares the
// processors with what is measured.
type sink struct {
	*httptest.Server
	bytes atomic.Int64
}

func newSink() *sink {
	s := &sink{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		s.bytes.Add(n)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	return s
}

// check makes sure that a collector measures what passes: requests that have ended, or
// those under way.
func (r *running) check(ctx context.Context, ended bool) error {
	if r.metrics == "" {
		return nil
	}
	text, err := get(ctx, r.metrics)
	if err != nil {
		return err
	}
	want := `llamacpp_proxy_phase="answering"} 1` // 100 or more
	if ended {
		want = "gen_ai_server_request_duration_seconds_count{"
	}
	if !strings.Contains(string(text), want) {
		return fmt.Errorf("the proxy's metrics lack %s:\n%s", want, text)
	}
	if ended && r.spans != nil && r.spans.bytes.Load() == 0 {
		return errors.New("the proxy has sent no spans")
	}
	return nil
}

// profile writes a profile of a collector to a file.
func (r *running) profile(ctx context.Context, what, file string) error {
	b, err := get(ctx, "http://"+r.pprof+"/debug/pprof/"+what)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

func get(ctx context.Context, url string) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	return io.ReadAll(r.Body)
}
