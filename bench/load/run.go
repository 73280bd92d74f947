// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/process"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/test/eventserver"
)

// run is a generator that sends a load to a server of its own.
type run struct {
	server    *eventserver.Server
	generator *child.Process
	output    child.Output
	folder    string
	arrivals  []time.Duration // of the requests so far
}

// start starts a server and a generator, each on its core, and waits until the first
// request has arrived.
func (b *bench) start(ctx context.Context, g generator, l load) (_ *run, err error) {
	r := &run{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", g.name, err), r.close())
		}
	}()
	if r.folder, err = os.MkdirTemp("", "bench-"); err != nil {
		return nil, err
	}
	on := func(core int) []string { return []string{"taskset", "-c", strconv.Itoa(core)} }
	if r.server, err = eventserver.Start(on(b.serverCore)...); err != nil {
		return nil, err
	}
	args, err := g.args(r.server.URL, l, r.folder)
	if err != nil {
		return nil, err
	}
	program := filepath.Join(b.programs, g.program)
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("%w: make bench builds it", err)
	}
	args = append(append(on(b.generatorCore), program), args...)
	if r.generator, err = child.Start(exec.Command(args[0], args[1:]...), &r.output); err != nil {
		return nil, err
	}
	for {
		if _, err := r.record(ctx); err != nil {
			return nil, err
		}
		if len(r.arrivals) > 0 {
			return r, nil
		}
		if err := r.pause(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// record returns what the server has seen since the last call.
func (r *run) record(ctx context.Context) (*eventserver.Record, error) {
	seen, err := r.server.Record(ctx)
	if err != nil {
		return nil, err
	}
	r.arrivals = append(r.arrivals, seen.Arrivals...)
	return seen, nil
}

// pause waits while the generator runs.
func (r *run) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-r.generator.Exited():
		return fmt.Errorf("ended early, %s: %s", r.generator.State(), r.output.String())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish waits until the generator has ended by itself.
func (r *run) finish(ctx context.Context) error {
	select {
	case <-r.generator.Exited():
	case <-ctx.Done():
		return ctx.Err()
	}
	if s := r.generator.State(); !s.Success() {
		return fmt.Errorf("%s: %s", s, r.output.String())
	}
	return nil
}

// close ends what still runs.
func (r *run) close() error {
	if r.generator != nil {
		r.generator.Kill()
	}
	var err error
	if r.server != nil {
		err = r.server.Close()
	}
	return errors.Join(err, os.RemoveAll(r.folder))
}

// A window is what happened in a part of a run, in seconds of CPU time.
type window struct {
	seconds, generator, server, others float64
	requests, events                   float64
}

// watch measures the run for a time, which leaves out how the generator starts and ends.
func (r *run) watch(ctx context.Context, d time.Duration) (w window, err error) {
	if err := r.pause(ctx, warmUp); err != nil {
		return w, err
	}
	var at [2]struct {
		time                       time.Time
		generator, server, machine time.Duration
	}
	for i := range at {
		if i > 0 {
			if err := r.pause(ctx, d); err != nil {
				return w, err
			}
		}
		seen, err := r.record(ctx)
		if err != nil {
			return w, err
		}
		at[i].time = time.Now()
		var err1, err2, err3 error
		at[i].generator, err1 = process.CPU(r.generator.PID())
		at[i].server, err2 = process.CPU(r.server.PID())
		at[i].machine, err3 = process.Machine()
		if err := errors.Join(err1, err2, err3); err != nil {
			return w, err
		}
		w.requests, w.events = float64(len(seen.Arrivals)), float64(seen.Events)
	}
	w.seconds = at[1].time.Sub(at[0].time).Seconds()
	w.generator = (at[1].generator - at[0].generator).Seconds()
	w.server = (at[1].server - at[0].server).Seconds()
	w.others = max(0, (at[1].machine-at[0].machine).Seconds()-w.generator-w.server)
	return w, nil
}
