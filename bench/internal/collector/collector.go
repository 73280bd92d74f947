// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package collector runs the built distribution as a process of its own.
package collector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
)

// Config is what the collector is to do.
type Config struct {
	Servers []string // base URLs, each watched by a receiver
	// OTLP is the base URL to export to over HTTP, in batches of the time Batch.
	// Where it is empty, all is dropped by the debug exporter.
	OTLP  string
	Batch time.Duration
	// Slots is the interval of the slots scraper; that of the server scraper is
	// twice as long. 0 leaves both at their defaults.
	Slots time.Duration
}

// Server is the interval of the server scraper.
func (c Config) Server() time.Duration { return 2 * c.Slots }

var text = template.Must(template.New("").Parse(`
receivers:
{{- range $i, $url := .Servers}}
  llamacpp/{{$i}}: {endpoint: "{{$url}}"{{if $.Slots}}, scrapers: {server: {collection_interval: {{$.Server}}}, slots: {collection_interval: {{$.Slots}}}, gpu: {}}{{end}}}
{{- end}}
processors:
  memory_limiter: {check_interval: 1s, limit_mib: 4000, spike_limit_mib: 800}
exporters:
{{- if .OTLP}}
  otlp_http:
    endpoint: {{.OTLP}}
    sending_queue: {sizer: items, queue_size: 1000000, batch: {flush_timeout: {{.Batch}}, min_size: 100000}}
{{- else}}
  debug: {verbosity: basic, sampling_initial: 1, sampling_thereafter: 1000000}
{{- end}}
extensions:
  pprof: {endpoint: "{{.PProf}}"}
service:
  extensions: [pprof]
  pipelines:
    metrics:
      receivers: [{{range $i, $url := .Servers}}{{if $i}}, {{end}}llamacpp/{{$i}}{{end}}]
      processors: [memory_limiter]
      exporters: [{{if .OTLP}}otlp_http{{else}}debug{{end}}]
  telemetry:
    metrics:
      readers: [pull: {exporter: {prometheus: {host: 127.0.0.1, port: {{.Telemetry}}}}}]
`))

// Collector is a running collector.
type Collector struct {
	*child.Process

	dir   string
	log   child.Output
	pprof string
}

// Start starts the binary and waits until it runs.
func Start(binary string, c Config) (_ *Collector, err error) {
	col := &Collector{}
	if col.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return nil, err
	}
	var ports [2]int
	for i := range ports {
		if ports[i], err = freeport.Find(0); err != nil {
			return nil, err
		}
	}
	col.pprof = fmt.Sprintf("127.0.0.1:%d", ports[0])
	var b bytes.Buffer
	if err := text.Execute(&b, struct {
		Config
		PProf     string
		Telemetry int
	}{c, col.pprof, ports[1]}); err != nil {
		return nil, err
	}
	path := filepath.Join(col.dir, "config.yaml")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		return nil, err
	}
	if col.Process, err = child.Start(exec.Command(binary, "--config", path), &col.log); err != nil {
		return nil, fmt.Errorf("%w: build it first: make build", err)
	}
	for {
		if col.Profile("cmdline", os.DevNull) == nil {
			return col, nil
		}
		select {
		case <-col.Exited():
			return nil, fmt.Errorf("the collector ended at its start:\n%s", col.log.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop ends the collector.
func (c *Collector) Stop() error {
	return errors.Join(c.Terminate(30*time.Second), os.RemoveAll(c.dir))
}

// Warnings are the lines of the log above level info. Only for a collector
// that has ended.
func (c *Collector) Warnings() []string {
	var out []string
	for line := range strings.Lines(c.log.String()) {
		if strings.Contains(line, "\twarn\t") || strings.Contains(line, "\terror\t") {
			out = append(out, line)
		}
	}
	return out
}

// Profile writes a profile of the collector to a file: "heap", or
// "profile?seconds=10" for CPU time.
func (c *Collector) Profile(what, file string) error {
	q, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+c.pprof+"/debug/pprof/"+what, http.NoBody)
	if err != nil {
		return err
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = f.ReadFrom(r.Body)
	return errors.Join(err, f.Close())
}
