// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command log writes the log of a server that ends -rate requests a second
// and measures what following it costs: the built collector with llamacpplog,
// beside one that only reads the file and one that takes lines apart with
// regex_parser, all at once on the same file.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/logwriter"
	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/process"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
)

// reader is a file_log receiver with checkpoints, as the examples have it.
const reader = `
extensions:
  file_storage: {directory: STATE, create_directory: true}
receivers:
  file_log:
    include: [FILE]
    start_at: beginning
    storage: file_storage
    include_file_path: true
    include_file_record_offset: true
exporters:
  file: {path: /dev/null}
`

const rest = `
  extensions: [file_storage]
  telemetry: {metrics: {level: none}, logs: {level: warn}}
`

// followers are the collectors that are compared.
var followers = []struct{ name, config string }{
	{"file_log alone", reader + `
service:
  pipelines:
    logs: {receivers: [file_log], exporters: [file]}` + rest},
	{"file_log with regex_parser", strings.Replace(reader, "    storage:", `    operators:
      - type: regex_parser
        on_error: send_quiet
        regex: '^(?P<clock>\S+) (?P<level>\w) (?P<area>\w+) +(?P<function>\w+): id +(?P<slot>\d+) \| task (?P<task>-?\d+) \| +(?P<text>.*)$'
    storage:`, 1) + `
service:
  pipelines:
    logs: {receivers: [file_log], exporters: [file]}` + rest},
	{"llamacpplog, metrics and traces", reader + `
connectors:
  llamacpplog: {storage: file_storage}
service:
  pipelines:
    logs: {receivers: [file_log], exporters: [llamacpplog]}
    metrics: {receivers: [llamacpplog], exporters: [file]}
    traces: {receivers: [llamacpplog], exporters: [file]}` + rest},
}

func main() {
	binary := flag.String("collector", "../bin/otelcol-llamacpp", "the built `program`")
	rate := flag.Int("rate", 100, "requests a second")
	duration := flag.Duration("duration", 30*time.Second, "how long it is measured")
	flag.Parse()
	if err := run(*binary, *rate, *duration); err != nil {
		fmt.Fprintln(os.Stderr, "log:", err)
		os.Exit(1)
	}
}

func run(binary string, rate int, duration time.Duration) (err error) {
	dir, err := os.MkdirTemp("", "bench-log-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "llama-server.log")
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()

	var running []*child.Process
	defer func() {
		for _, c := range running {
			err = errors.Join(err, c.Terminate(30*time.Second))
		}
	}()
	for i, f := range followers {
		config := filepath.Join(dir, fmt.Sprintf("%d.yaml", i))
		text := strings.NewReplacer("FILE", file, "STATE", filepath.Join(dir, fmt.Sprint("state", i))).Replace(f.config)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return err
		}
		c, err := child.Start(exec.Command(binary, "--config", config), os.Stderr)
		if err != nil {
			return fmt.Errorf("%w: build it first: make build", err)
		}
		running = append(running, c)
	}

	write := func(lines []string) error {
		_, err := out.WriteString(strings.Join(lines, "\n") + "\n")
		return err
	}
	if err := write(logwriter.Start()); err != nil {
		return err
	}
	const warmUp = 5 * time.Second
	began, task := time.Now(), 0
	until := func(end time.Duration) error {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for time.Since(began) < end {
			<-tick.C
			if err := write(logwriter.Request(task%16, task, time.Second+time.Since(began))); err != nil {
				return err
			}
			task++
		}
		return nil
	}
	if err := until(warmUp); err != nil {
		return err
	}
	before, from, first := make([]time.Duration, len(running)), time.Now(), task
	for i, c := range running {
		if before[i], err = process.CPU(c.PID()); err != nil {
			return err
		}
	}
	if err := until(warmUp + duration); err != nil {
		return err
	}
	took := time.Since(from)
	fmt.Printf("%.0f requests a second, %d lines each, for %.0f s\n\n", float64(task-first)/took.Seconds(), logwriter.LinesPerRequest, took.Seconds())
	fmt.Println("| | cores | resident MB |")
	fmt.Println("| --- | ---: | ---: |")
	for i, c := range running {
		after, err := process.CPU(c.PID())
		if err != nil {
			return err
		}
		m, err := process.MemoryOf(c.PID())
		if err != nil {
			return err
		}
		fmt.Printf("| %s | %.4f | %.0f |\n", followers[i].name, (after-before[i]).Seconds()/took.Seconds(), float64(m.Resident)/1e6)
	}
	return nil
}
