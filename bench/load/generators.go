// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/eventserver"
)

// load is what a generator is to send.
type load struct {
	// Rate is in requests per second, at equal gaps. If it is 0, each of Users sends its
	// next request when the last is answered.
	rate, users int
	duration    time.Duration
	// Each answer has so many events, one in each interval, or all at once.
	events   int
	interval time.Duration
}

// requests is the number of requests of a load with a rate.
func (l load) requests() int { return l.rate * int(l.duration/time.Second) }

func (l load) header() http.Header { return eventserver.Header(l.events, l.interval) }

// A generator makes the arguments of a program that sends a load to the server at url.
// The folder is for its files.
type generator struct {
	name, program string
	args          func(url string, l load, folder string) ([]string, error)
}

var (
	ours       = generator{"llamaload", "llamaload", llamaload}
	generators = []generator{ours, {"vegeta", "vegeta", vegeta}, {"k6", "k6", k6}}
	// The same load from inside the collector, which drops what it measures.
	inside = []generator{
		ours,
		{"collector, metrics", "otelcol-llamacpp", collector("metrics")},
		{"collector, metrics and spans", "otelcol-llamacpp", collector("metrics", "traces")},
	}
)

// report is the name of the file to which llamaload writes its report.
const report = "report.json"

// warmUp is the time at the start of a run that is not looked at.
const warmUp = time.Second

func llamaload(url string, l load, folder string) ([]string, error) {
	args := []string{
		"run", "--url", url, "--duration", l.duration.String(), "--warm-up", warmUp.String(), "--timeout", "0",
		"--max-tokens", strconv.Itoa(l.events), "--json", filepath.Join(folder, report),
	}
	for name := range l.header() {
		args = append(args, "--header", name+": "+l.header().Get(name))
	}
	if l.rate > 0 {
		return append(args, "--rate", strconv.Itoa(l.rate), "--max-in-flight", strconv.Itoa(l.requests())), nil
	}
	return append(args, "--users", strconv.Itoa(l.users)), nil
}

// body is a request like those of llamaload, for generators that send the same one
// always.
const body = `{"messages":[{"role":"user","content":"[00f3a2c1b4d5] What is the difference between latency and throughput of an inference server?"}],` +
	`"max_tokens":8,"temperature":0.7,"seed":1234567890,"stream":true,"stream_options":{"include_usage":true}}`

func vegeta(url string, l load, folder string) ([]string, error) {
	header := l.header()
	header.Set("Content-Type", "application/json")
	target, err := json.Marshal(struct {
		Method string      `json:"method"`
		URL    string      `json:"url"`
		Body   []byte      `json:"body"`
		Header http.Header `json:"header"`
	}{http.MethodPost, url + "/v1/chat/completions", []byte(body), header})
	if err != nil {
		return nil, err
	}
	path := filepath.Join(folder, "target.json")
	if err := os.WriteFile(path, append(target, '\n'), 0o600); err != nil {
		return nil, err
	}
	args := []string{
		"attack", "-format", "json", "-targets", path, "-duration", l.duration.String(), "-timeout", "0",
		// Answers are read, but not kept.
		"-max-body", "0", "-output", os.DevNull,
	}
	if l.rate > 0 {
		return append(args, "-rate", fmt.Sprintf("%d/1s", l.rate)), nil
	}
	return append(args, "-rate", "0", "-max-workers", strconv.Itoa(l.users)), nil
}

func k6(url string, l load, folder string) ([]string, error) {
	type object = map[string]any
	scenario := object{"executor": "constant-vus", "vus": l.users, "duration": l.duration.String(), "gracefulStop": "0s"}
	if l.rate > 0 {
		users := min(l.requests(), 500) // as answers that come at once need
		if l.interval > 0 {
			users = l.requests()
		}
		scenario = object{
			"executor": "constant-arrival-rate", "rate": l.rate, "timeUnit": "1s", "duration": l.duration.String(),
			"preAllocatedVUs": users, "gracefulStop": "1h",
		}
	}
	header := map[string]string{"Content-Type": "application/json"}
	for name := range l.header() {
		header[name] = l.header().Get(name)
	}
	var script []byte
	for _, part := range []struct {
		format string
		value  any
	}{
		{"import http from 'k6/http';\nexport const options = %s;\n", object{
			"discardResponseBodies": true, // read, but not kept
			"scenarios":             object{"load": scenario},
		}},
		{"const params = %s;\n", object{"headers": header, "timeout": "1h"}},
		{"export default function () { http.post('" + url + "/v1/chat/completions', %s, params); }\n", body},
	} {
		b, err := json.Marshal(part.value)
		if err != nil {
			return nil, err
		}
		script = fmt.Appendf(script, part.format, b)
	}
	path := filepath.Join(folder, "script.js")
	if err := os.WriteFile(path, script, 0o600); err != nil {
		return nil, err
	}
	return []string{"run", "--quiet", "--no-usage-report", "--no-thresholds", "--summary-mode", "disabled", "--address", "", path}, nil
}

// collector returns the arguments of a collector with a pipeline for each signal.
func collector(signals ...string) func(url string, l load, folder string) ([]string, error) {
	return func(url string, l load, folder string) ([]string, error) {
		type object = map[string]any
		headers := []object{}
		for name := range l.header() {
			headers = append(headers, object{"name": name, "value": l.header().Get(name)})
		}
		pipelines := object{}
		for _, s := range signals {
			pipelines[s] = object{"receivers": []string{"loadgen"}, "exporters": []string{"debug"}}
		}
		config, err := json.Marshal(object{ // which is YAML, too
			"extensions": object{"loadgen": object{
				"endpoint": "127.0.0.1:0",
				"target":   object{"endpoint": url, "headers": headers},
				"profiles": object{"load": object{
					"start": true, "rate": l.rate, "duration": l.duration.String(), "max_in_flight": l.requests(),
					"max_tokens": object{"min": l.events, "max": l.events},
				}},
			}},
			"receivers": object{"loadgen": nil},
			"exporters": object{"debug": object{"verbosity": "basic", "sampling_initial": 1, "sampling_thereafter": 1000000}},
			"service": object{
				"extensions": []string{"loadgen"}, "pipelines": pipelines,
				"telemetry": object{"metrics": object{"level": "none"}},
			},
		})
		if err != nil {
			return nil, err
		}
		path := filepath.Join(folder, "config.yaml")
		return []string{"--config", path}, os.WriteFile(path, config, 0o600)
	}
}
