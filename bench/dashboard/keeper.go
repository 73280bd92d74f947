// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/process"
	"github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
)

// keeperRole is the variable that makes this program the process that keeps a
// history, so that its memory is that and nothing else.
const keeperRole = "LLAMACPP_BENCH_KEEP"

// task is what a keeper keeps.
type task struct {
	Recording  string
	Skip       time.Duration
	Servers    int // how many servers the recorded one stands for; more than 1: without GPUs
	History    time.Duration
	Directory  string
	Unattended time.Duration // how long it runs on before its memory is measured
}

// kept is what that took.
type kept struct {
	URL       string
	Points    int
	Series    int
	Took      time.Duration // to keep them
	Resident  int64
	Anonymous int64
	Heap      int64
	Disk      int64
}

// keep is the keeper's side. It goes on with the recording in real time until its
// input ends. Each line of the input is a number of requests that wait, which it
// reports at once, and it answers with the time.
func keep() error {
	var t task
	if err := json.Unmarshal([]byte(os.Getenv(keeperRole)), &t); err != nil {
		return err
	}
	r, err := readRecording(t.Recording, t.Skip, t.Servers > 1)
	if err != nil {
		return err
	}
	port, err := freeport.Find(0)
	if err != nil {
		return err
	}
	f := dashboardexporter.NewFactory()
	cfg := f.CreateDefaultConfig().(*dashboardexporter.Config)
	cfg.ServerConfig.NetAddr.Endpoint = fmt.Sprintf("localhost:%d", port)
	cfg.StorageDirectory = t.Directory
	cfg.MaxSeries = 100_000
	set := exportertest.NewNopSettings(f.Type())
	if set.Logger, err = zap.NewDevelopment(zap.IncreaseLevel(zap.WarnLevel)); err != nil {
		return err
	}
	ctx := context.Background()
	e, err := f.CreateMetrics(ctx, set, cfg)
	if err != nil {
		return err
	}
	if err := e.Start(ctx, componenttest.NewNopHost()); err != nil {
		return err
	}
	defer func() { _ = e.Shutdown(ctx) }()
	k := &keeper{task: t, r: r, e: e, url: "http://" + cfg.ServerConfig.NetAddr.Endpoint}
	result, err := k.fill(ctx)
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	var living sync.WaitGroup
	living.Go(func() { k.live(ctx, stop) })
	defer living.Wait()
	defer close(stop)
	runtime.GC()
	debug.FreeOSMemory()
	time.Sleep(t.Unattended)
	m, err := process.MemoryOf(os.Getpid())
	if err != nil {
		return err
	}
	result.Resident, result.Anonymous = m.Resident, m.Anonymous
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	result.Heap = int64(stats.HeapAlloc)
	if result.Disk, err = sizeOf(t.Directory); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(result); err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var n float64
		if _, err := fmt.Sscan(lines.Text(), &n); err != nil {
			return err
		}
		at, err := k.probe(ctx, n)
		if err != nil {
			return err
		}
		if err := out.Encode(at.UnixMicro()); err != nil {
			return err
		}
	}
	return nil
}

type keeper struct {
	task
	r   *recording
	e   exporter.Metrics
	url string

	mu      sync.Mutex
	waiting float64 // requests; 0: as recorded
	next    int     // batch
}

// consume hands a batch on, for each server.
func (k *keeper) consume(ctx context.Context, b batch) error {
	for i := range k.Servers {
		if k.Servers > 1 {
			b.rename(fmt.Sprintf("gpu-%02d:8080", i))
		}
		if err := k.e.ConsumeMetrics(ctx, b.md); err != nil {
			return err
		}
	}
	return nil
}

// fill hands on the recording again and again until the present.
func (k *keeper) fill(ctx context.Context) (kept, error) {
	last := k.r.batches[len(k.r.batches)-1].at
	k.r.shift(time.Until(last)-max(k.History, minute), true)
	result := kept{URL: k.url}
	for passes := 1; ; passes++ {
		for i, b := range k.r.batches {
			if b.at.After(time.Now()) {
				k.next = i
				var err error
				result.Series, _, err = k.head()
				return result, err
			}
			began := time.Now()
			if err := k.consume(ctx, b); err != nil {
				return kept{}, err
			}
			result.Took += time.Since(began)
		}
		result.Points += k.r.points * k.Servers
		k.r.next()
		if passes%20 == 0 {
			// Blocks are written beside this, and as time goes by there would be time for it.
			for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				_, length, err := k.head()
				if err != nil {
					return kept{}, err
				}
				if length < 190*time.Minute {
					break
				}
			}
		}
	}
}

// head is how many series are in memory, and how much time their points span.
func (k *keeper) head() (series int, length time.Duration, err error) {
	response, err := http.Get(k.url + "/api/v1/status/tsdb?limit=1")
	if err != nil {
		return 0, 0, err
	}
	defer response.Body.Close()
	var status struct {
		Data struct {
			HeadStats struct {
				NumSeries        int
				MinTime, MaxTime int64
			}
		}
	}
	err = json.NewDecoder(response.Body).Decode(&status)
	h := status.Data.HeadStats
	return h.NumSeries, time.Duration(h.MaxTime-h.MinTime) * time.Millisecond, err
}

// live hands on the recording as time goes by.
func (k *keeper) live(ctx context.Context, stop <-chan struct{}) {
	for {
		k.mu.Lock()
		if k.next == len(k.r.batches) {
			k.r.next()
			k.next = 0
		}
		b := k.r.batches[k.next]
		k.next++
		k.mu.Unlock()
		select {
		case <-stop:
			return
		case <-time.After(time.Until(b.at)):
		}
		k.mu.Lock()
		if k.waiting > 0 {
			b.deferred(k.waiting)
		}
		err := k.consume(ctx, b)
		k.mu.Unlock()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// probe reports at once that n requests wait, and returns when.
func (k *keeper) probe(ctx context.Context, n float64) (time.Time, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.waiting = n
	for _, b := range k.r.batches {
		only, found := b.deferred(n)
		if !found {
			continue
		}
		now := time.Now()
		each(only, func(_ func() string, p point) { p.SetTimestamp(pcommon.NewTimestampFromTime(now)) })
		return now, k.e.ConsumeMetrics(ctx, only)
	}
	return time.Time{}, errors.New("the recording has no llamacpp.requests.deferred")
}

func sizeOf(folder string) (bytes int64, err error) {
	err = filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // it has just been compacted away
		}
		if info, err := d.Info(); err == nil {
			bytes += info.Size()
		}
		return nil
	})
	return bytes, err
}

// keeping is a keeper from outside.
type keeping struct {
	kept
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startKeeper(t task) (_ *keeping, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if t.Directory, err = os.MkdirTemp("", "bench-history-"); err != nil {
		return nil, err
	}
	role, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	k := &keeping{cmd: exec.Command(self)}
	k.cmd.Env = append(os.Environ(), keeperRole+"="+string(role))
	k.cmd.Stderr = os.Stderr
	if k.in, err = k.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := k.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	k.out = bufio.NewScanner(out)
	if err := k.cmd.Start(); err != nil {
		return nil, err
	}
	if !k.out.Scan() {
		_ = k.in.Close()
		return nil, fmt.Errorf("the history ended: %w", k.cmd.Wait())
	}
	return k, json.Unmarshal(k.out.Bytes(), &k.kept)
}

// report has it report that n requests wait, and returns when it did.
func (k *keeping) report(n int) (time.Time, error) {
	if _, err := fmt.Fprintln(k.in, n); err != nil {
		return time.Time{}, err
	}
	if !k.out.Scan() {
		return time.Time{}, errors.New("the history ended")
	}
	var micro int64
	err := json.Unmarshal(k.out.Bytes(), &micro)
	return time.UnixMicro(micro), err
}

func (k *keeping) stop() {
	_ = k.in.Close()
	_ = k.cmd.Wait()
	var t task
	for _, v := range k.cmd.Env {
		if len(v) > len(keeperRole) && v[:len(keeperRole)] == keeperRole {
			_ = json.Unmarshal([]byte(v[len(keeperRole)+1:]), &t)
		}
	}
	if t.Directory != "" {
		_ = os.RemoveAll(t.Directory)
	}
}
