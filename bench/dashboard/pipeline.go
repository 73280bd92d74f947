// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/process"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/test/fakenvml"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

// stage is a busy simulated server with a log, and 8 simulated GPUs that work.
type stage struct {
	folder string
	server *llamasim.Server
	log    *os.File
	driver *fakenvml.Driver
	stop   chan struct{}
	gpus   sync.WaitGroup
}

const gpus = 8

func newStage() (_ *stage, err error) {
	s := &stage{stop: make(chan struct{})}
	if s.folder, err = os.MkdirTemp("", "bench-dashboard-"); err != nil {
		return nil, err
	}
	if s.log, err = os.Create(filepath.Join(s.folder, "llama-server.log")); err != nil {
		return nil, err
	}
	if s.driver, err = fakenvml.New(s.folder, fakenvml.Options{GPUs: gpus}); err != nil {
		return nil, err
	}
	s.server = llamasim.New(llamasim.Options{Log: s.log})
	if _, err := s.server.Start("127.0.0.1:0"); err != nil {
		return nil, err
	}
	s.server.AddLoad(load)
	for i := range gpus {
		s.driver.SetProcesses(i, fakenvml.Process{PID: uint64(os.Getpid()), Memory: 9 << 30}) // the simulator is in this process
	}
	s.gpus.Go(s.work)
	return s, nil
}

// work has each number of the GPUs move.
func (s *stage) work() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		for i := range gpus {
			g := s.driver.GPU(i)
			load := (1 + math.Sin(time.Since(began).Seconds()/3+float64(i))) / 2
			g.Utilization, g.MemoryUtilization = uint64(40+60*load), uint64(30+60*load)
			g.Power, g.Temperature, g.MemoryTemperature = uint64(150_000+500_000*load), uint64(45+35*load), uint64(50+35*load)
			g.Energy += g.Power / 10
			g.MemoryUsed = 10<<30 + uint64(load*float64(3<<30))
			g.Clocks[0], g.Clocks[1] = uint64(1980-300*load), uint64(1980-300*load)
			g.Fan = uint64(30 + 50*load)
			g.Received += uint64(1e7 * load)
			g.Transmitted += uint64(4e6 * load)
		}
	}
}

func (s *stage) close() {
	close(s.stop)
	s.gpus.Wait()
	s.server.Close()
	_ = s.log.Close()
	_ = os.RemoveAll(s.folder)
}

// watcher is the built collector with collector-config.yaml, on a stage.
type watcher struct {
	*child.Process
	url string
	log child.Output
}

// watch starts a collector. The overlay may use the variable OUT, a file.
func (s *stage) watch(binary, config, overlay, out string) (*watcher, error) {
	w := &watcher{}
	state, err := os.MkdirTemp(s.folder, "state")
	if err != nil {
		return nil, err
	}
	extra := filepath.Join(state, "overlay.yaml")
	if err := os.WriteFile(extra, []byte(overlay), 0o600); err != nil {
		return nil, err
	}
	env := []string{
		"LLAMACPP_ENDPOINT=" + s.server.URL(), "LLAMACPP_LOG=" + s.log.Name(), "STATE_DIRECTORY=" + state,
		"LD_LIBRARY_PATH=" + s.driver.Folder(), "OUT=" + out,
	}
	health := 0
	for _, name := range []string{"DASHBOARD_PORT", "PROMETHEUS_PORT", "TELEMETRY_PORT", "HEALTH_CHECK_PORT"} {
		port, err := freeport.Find(0)
		if err != nil {
			return nil, err
		}
		switch name {
		case "DASHBOARD_PORT":
			w.url = fmt.Sprintf("http://localhost:%d", port)
		case "HEALTH_CHECK_PORT":
			health = port
		}
		env = append(env, fmt.Sprintf("%s=%d", name, port))
	}
	cmd := exec.Command(binary, "--config", config, "--config", extra)
	cmd.Env = append(os.Environ(), env...)
	if w.Process, err = child.Start(cmd, &w.log); err != nil {
		return nil, fmt.Errorf("%w: build it first: make build", err)
	}
	for {
		if response, err := http.Get(fmt.Sprintf("http://localhost:%d/", health)); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return w, nil
			}
		}
		select {
		case <-w.Exited():
			return nil, fmt.Errorf("the collector ended at its start:\n%s", w.log.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (w *watcher) stop() error { return w.Terminate(30 * time.Second) }

// toFile writes what the page gets to a file instead.
const toFile = `
exporters:
  file: {path: "${env:OUT}", flush_interval: 100ms}
service:
  pipelines:
    metrics/page: {exporters: [file]}
`

// withoutPage drops what the page would get.
const withoutPage = `
exporters:
  debug: {verbosity: basic, sampling_initial: 1, sampling_thereafter: 1000000}
service:
  pipelines:
    metrics/page: {exporters: [debug]}
    traces/page: {exporters: [debug]}
`

// load is what the server is busy with: all slots, and requests that wait.
var load = llamasim.Load{Concurrency: 6, PromptTokens: 200, MaxTokens: 100}

// record writes what the pipeline of the page brings in some time to a file.
func (s *stage) record(o options, out string, duration time.Duration) error {
	w, err := s.watch(o.binary, o.config, toFile, out)
	if err != nil {
		return err
	}
	time.Sleep(duration)
	return w.stop()
}

// cores is the share of a core that a process uses for some time.
func cores(pid int, duration time.Duration) (float64, error) {
	before, err1 := process.CPU(pid)
	began := time.Now()
	time.Sleep(duration)
	after, err2 := process.CPU(pid)
	return (after - before).Seconds() / time.Since(began).Seconds(), errors.Join(err1, err2)
}

// view opens so many streams, as pages do, until the end of ctx.
func view(ctx context.Context, url string, viewers int, streams *sync.WaitGroup) error {
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 0}}
	opened := make(chan error, viewers)
	for range viewers {
		streams.Go(func() {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/live/stream?window=300&points=300", http.NoBody)
			if err != nil {
				opened <- err
				return
			}
			response, err := client.Do(request)
			if err == nil && response.StatusCode != http.StatusOK {
				err = errors.New(response.Status)
			}
			opened <- err
			if err != nil {
				return
			}
			defer response.Body.Close()
			lines := bufio.NewReader(response.Body)
			for err == nil {
				_, err = lines.ReadSlice('\n')
				if errors.Is(err, bufio.ErrBufferFull) {
					err = nil
				}
			}
		})
	}
	for range viewers {
		if err := <-opened; err != nil {
			return fmt.Errorf("%s: %w", strings.TrimPrefix(url, "http://"), err)
		}
	}
	return nil
}

// usage measures the collector without a page, and with the page and so many viewers.
func (s *stage) usage(o options, viewers ...int) (without float64, with []float64, err error) {
	measure := func(overlay string, counts ...int) (all []float64, err error) {
		w, err := s.watch(o.binary, o.config, overlay, "")
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, w.stop()) }()
		time.Sleep(o.warmUp)
		for _, n := range counts {
			ctx, cancel := context.WithCancel(context.Background())
			var streams sync.WaitGroup
			if err := view(ctx, w.url, n, &streams); err != nil {
				cancel()
				return nil, err
			}
			time.Sleep(2 * time.Second)
			used, err := cores(w.PID(), o.duration)
			cancel()
			streams.Wait()
			if err != nil {
				return nil, err
			}
			all = append(all, used)
		}
		return all, nil
	}
	var alone, all []float64
	with = make([]float64, len(viewers))
	each := make([][]float64, len(viewers))
	for range o.rounds {
		base, err := measure(withoutPage, 0)
		if err != nil {
			return 0, nil, err
		}
		alone = append(alone, base[0])
		if all, err = measure("{}", viewers...); err != nil {
			return 0, nil, err
		}
		for i := range each {
			each[i] = append(each[i], all[i])
		}
	}
	for i := range each {
		with[i] = median(each[i])
	}
	return median(alone), with, nil
}
