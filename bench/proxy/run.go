// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/process"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/test/eventserver"
)

// warmUp is the time at the start of a run that is not looked at.
const warmUp = 2 * time.Second

// run is a load on its way through a proxy to a server.
type run struct {
	proxy   *running
	server  *eventserver.Server
	clients *child.Process
	output  child.Output // of the clients
	folder  string
}

func onCore(core int) []string { return []string{"taskset", "-c", strconv.Itoa(core)} }

// start starts a server, a proxy and clients, and waits until a request has arrived at
// the server.
func (b *bench) start(ctx context.Context, p *proxy, l load) (_ *run, err error) {
	r := &run{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", p.name, err), r.close())
		}
	}()
	if r.folder, err = os.MkdirTemp("", "bench-"); err != nil {
		return nil, err
	}
	if r.server, err = eventserver.Start(onCore(b.otherCore)...); err != nil {
		return nil, err
	}
	if r.proxy, err = p.start(ctx, b, strings.TrimPrefix(r.server.URL, "http://"), r.folder); err != nil {
		return nil, err
	}
	l.Address, l.Reuse = r.proxy.address, p.name != direct
	text, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := append(onCore(b.otherCore), self)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), role+"="+string(text))
	if r.clients, err = child.Start(cmd, &r.output); err != nil {
		return nil, err
	}
	for {
		seen, err := r.server.Record(ctx)
		if err != nil {
			return nil, err
		}
		if len(seen.Arrivals) > 0 {
			return r, nil
		}
		if err := r.pause(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// pause waits while the clients run.
func (r *run) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-r.clients.Exited():
		return fmt.Errorf("the clients ended early, %s: %s", r.clients.State(), r.output.String())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish waits until the clients have ended by themselves, and returns what they saw.
func (r *run) finish(ctx context.Context) (seen result, err error) {
	select {
	case <-r.clients.Exited():
	case <-ctx.Done():
		return seen, ctx.Err()
	}
	if s := r.clients.State(); !s.Success() {
		return seen, fmt.Errorf("%s: %s%s", s, r.output.String(), r.proxy.output.String())
	}
	err = json.Unmarshal([]byte(r.output.String()), &seen)
	return seen, err
}

// close ends what still runs.
func (r *run) close() error {
	if r.clients != nil {
		r.clients.Kill()
	}
	if r.proxy != nil {
		r.proxy.close()
	}
	var err error
	if r.server != nil {
		err = r.server.Close()
	}
	return errors.Join(err, os.RemoveAll(r.folder))
}

// A window is what happened in a part of a run, in seconds of CPU time.
type window struct {
	seconds, proxy, others float64
	requests, events       float64
}

// watch measures the run for a time after it has warmed up.
func (r *run) watch(ctx context.Context, d time.Duration) (w window, err error) {
	if err := r.pause(ctx, warmUp); err != nil {
		return w, err
	}
	var at [2]struct {
		time                            time.Time
		proxy, server, clients, machine time.Duration
	}
	for i := range at {
		if i > 0 {
			if err := r.pause(ctx, d); err != nil {
				return w, err
			}
		}
		seen, err := r.server.Record(ctx)
		if err != nil {
			return w, err
		}
		at[i].time = time.Now()
		var err1, err2, err3, err4 error
		at[i].proxy, err1 = r.proxy.cpu()
		at[i].server, err2 = process.CPU(r.server.PID())
		at[i].clients, err3 = process.CPU(r.clients.PID())
		at[i].machine, err4 = process.Machine()
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return w, err
		}
		w.requests, w.events = float64(len(seen.Arrivals)), float64(seen.Events)
	}
	w.seconds = at[1].time.Sub(at[0].time).Seconds()
	w.proxy = (at[1].proxy - at[0].proxy).Seconds()
	measured := w.proxy + (at[1].server - at[0].server + at[1].clients - at[0].clients).Seconds()
	w.others = max(0, (at[1].machine-at[0].machine).Seconds()-measured)
	return w, nil
}

// processes are the proxy and its workers.
func (r *running) processes() ([]int, error) {
	if r.process == nil {
		return nil, nil
	}
	pid := r.process.PID()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", pid))
	if err != nil {
		return nil, err
	}
	all := []int{pid}
	for _, text := range strings.Fields(string(b)) {
		worker, err := strconv.Atoi(text)
		if err != nil {
			return nil, err
		}
		all = append(all, worker)
	}
	return all, nil
}

// cpu is the CPU time that the proxy has used.
func (r *running) cpu() (sum time.Duration, err error) {
	all, err := r.processes()
	for _, pid := range all {
		one, err := process.CPU(pid)
		if err != nil {
			return 0, err
		}
		sum += one
	}
	return sum, err
}

// memory is what the proxy holds. What its processes share counts for each.
func (r *running) memory() (sum process.Memory, err error) {
	all, err := r.processes()
	for _, pid := range all {
		one, err := process.MemoryOf(pid)
		if err != nil {
			return sum, err
		}
		sum.Resident += one.Resident
		sum.Anonymous += one.Anonymous
		sum.Peak += one.Peak
	}
	return sum, err
}

// maxFiles is how many files a process may open.
func maxFiles() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	return int(min(l.Max, 1<<20))
}
