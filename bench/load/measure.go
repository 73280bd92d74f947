// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/process"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
)

// inTurn measures each generator once in each round, so that what else happens on the
// machine meets all of them, and returns the figures of each measurement by generator.
func (b *bench) inTurn(ctx context.Context, generators []generator, l load, measure func(*run) ([]float64, error)) (map[string][][]float64, error) {
	all := map[string][][]float64{}
	for range b.rounds {
		for _, g := range generators {
			r, err := b.start(ctx, g, l)
			if err != nil {
				return nil, err
			}
			figures, err := measure(r)
			if err := errors.Join(err, r.close()); err != nil {
				return nil, fmt.Errorf("%s: %w", g.name, err)
			}
			all[g.name] = append(all[g.name], figures)
		}
	}
	return all, nil
}

// median returns the median of figure i of all rounds.
func median(rounds [][]float64, i int) float64 {
	xs := make([]float64, len(rounds))
	for j, r := range rounds {
		xs[j] = r[i]
	}
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// newRequests measures the cost of a request with eight events, with so many users that
// the generator is always busy.
func (b *bench) newRequests(ctx context.Context) error {
	const users = 64
	fmt.Printf("\nNew requests of 8 events, closed loop of %d users, medians of %d rounds:\n\n", users, b.rounds)
	return b.cost(ctx, load{users: users, duration: 8 * time.Second, events: 8}, "request", func(w window) float64 { return w.requests })
}

// longStreams measures the cost of an event that arrives by itself.
func (b *bench) longStreams(ctx context.Context) error {
	const (
		streams  = 100
		interval = 2 * time.Millisecond
		lasts    = 10 * time.Second
	)
	fmt.Printf("\n%d streams of %d events a second, each in a segment of its own, medians of %d rounds:\n\n", streams, time.Second/interval, b.rounds)
	l := load{rate: streams / 2, duration: 2 * time.Second, events: int(lasts / interval), interval: interval}
	return b.cost(ctx, l, "event", func(w window) float64 { return w.events })
}

// cost measures what one of the things that number counts costs each generator. That the
// server is not the bottleneck shows in its share of its core.
func (b *bench) cost(ctx context.Context, l load, thing string, number func(window) float64) error {
	all, err := b.inTurn(ctx, generators, l, func(r *run) ([]float64, error) {
		w, err := r.watch(ctx, 5*time.Second)
		n := number(w)
		return []float64{n / w.generator, w.generator / n * 1e6, n / w.seconds, w.generator / w.seconds, w.server / w.seconds, w.others / w.seconds}, err
	})
	if err != nil {
		return err
	}
	fmt.Printf("| | %[1]ss/s and core | CPU for one | %[1]ss/s | generator, cores | server, cores | others, cores |\n", thing)
	fmt.Println("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
	for _, g := range generators {
		m := func(i int) float64 { return median(all[g.name], i) }
		fmt.Printf("| %s | %.0f | %.1f µs | %.0f | %.2f | %.2f | %.2f |\n", g.name, m(0), m(1), m(2), m(3), m(4), m(5))
	}
	return nil
}

// sendTimes measures how far from an equal spacing requests arrive at the server. The
// true start of a schedule is not known, so errors count from the earliest request;
// those of llamaload are compared with what it reports itself.
func (b *bench) sendTimes(ctx context.Context) error {
	l := load{rate: 1000, duration: 6 * time.Second, events: 8}
	var lags, idle [][]float64
	all, err := b.inTurn(ctx, generators, l, func(r *run) ([]float64, error) {
		if err := r.finish(ctx); err != nil {
			return nil, err
		}
		if _, err := r.record(ctx); err != nil {
			return nil, err
		}
		late, err := scheduleErrors(r.arrivals, l)
		if err != nil {
			return nil, err
		}
		lag, err := reportedLag(r.folder)
		if errors.Is(err, os.ErrNotExist) { // not llamaload
			return late, nil
		}
		if err != nil {
			return nil, err
		}
		// In the same minutes, which not all are equally quiet.
		asleep, err := b.sleepErrors(ctx, l)
		lags, idle = append(lags, lag), append(idle, asleep)
		return late, err
	})
	if err != nil {
		return err
	}
	fmt.Printf("\nSend-time error at %d requests/s after the first second, in ms, medians of %d rounds:\n\n", l.rate, b.rounds)
	fmt.Println("| | p50 | p99 | max | lowest p99 |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: |")
	row := func(name string, rounds [][]float64) {
		lowest := slices.MinFunc(rounds, func(a, b []float64) int { return int(1e6 * (a[1] - b[1])) })
		fmt.Printf("| %s | %.2f | %.2f | %.1f | %.2f |\n", name, median(rounds, 0), median(rounds, 1), median(rounds, 2), lowest[1])
	}
	row("a thread that only sleeps", idle)
	for _, g := range generators {
		row(g.name+", at the server", all[g.name])
	}
	row("llamaload, by its own report", lags)
	return nil
}

// scheduleErrors returns the median, the 99th percentile and the maximum of how late
// the requests after the warm-up arrived, in ms after the earliest.
func scheduleErrors(arrivals []time.Duration, l load) ([]float64, error) {
	// k6 sends one more at the very end.
	if n := l.requests(); len(arrivals) < n || len(arrivals) > n+1 {
		return nil, fmt.Errorf("sent %d requests instead of %d: the errors of their times cannot be told", len(arrivals), n)
	}
	gap := time.Second / time.Duration(l.rate)
	slices.Sort(arrivals)
	late := make([]float64, 0, len(arrivals))
	for i := int(warmUp / gap); i < l.requests(); i++ {
		late = append(late, milliseconds(arrivals[i]-time.Duration(i)*gap))
	}
	slices.Sort(late)
	n := len(late)
	return []float64{late[n/2] - late[0], late[n*99/100] - late[0], late[n-1] - late[0]}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// reportedLag returns the median, the 99th percentile and the maximum of the lag that
// llamaload reports in the folder, in ms.
func reportedLag(folder string) ([]float64, error) {
	b, err := os.ReadFile(filepath.Join(folder, report))
	if err != nil {
		return nil, err
	}
	var r loadgen.Report
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", report, err)
	}
	lag := r.Latency.Lag
	return []float64{milliseconds(lag.Percentile(50)), milliseconds(lag.Percentile(99)), milliseconds(lag.Max())}, nil
}

// sleepErrors measures how late the kernel wakes up a thread on the generators' core that
// only sleeps until the times of the load: no generator can do better without spinning.
func (b *bench) sleepErrors(ctx context.Context, l load) ([]float64, error) {
	var (
		late []float64
		err  error
		done = make(chan struct{})
	)
	go func() {
		defer close(done)
		runtime.LockOSThread() // until its end: the thread does not leave its core again
		late, err = sleepOn(ctx, b.generatorCore, l)
	}()
	if <-done; err != nil {
		return nil, err
	}
	slices.Sort(late)
	n := len(late)
	return []float64{late[n/2], late[n*99/100], late[n-1]}, nil
}

func sleepOn(ctx context.Context, core int, l load) ([]float64, error) {
	var cores unix.CPUSet
	cores.Set(core)
	if err := unix.SchedSetaffinity(0, &cores); err != nil {
		return nil, fmt.Errorf("run on core %d: %w", core, err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return nil, err
	}
	var late []float64
	start, gap := now.Nano(), int64(time.Second)/int64(l.rate)
	for i := range l.requests() {
		due := start + int64(i)*gap
		at := unix.NsecToTimespec(due)
		for errors.Is(unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &at, nil), unix.EINTR) {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
			return nil, err
		}
		late = append(late, milliseconds(time.Duration(now.Nano()-due)))
	}
	return late, ctx.Err()
}

// fromInside compares llamaload with the same load from inside the collector.
func (b *bench) fromInside(ctx context.Context) error {
	const tokens = 100
	l := load{rate: 100, duration: 12 * time.Second, events: tokens, interval: 10 * time.Millisecond}
	all, err := b.inTurn(ctx, inside, l, func(r *run) ([]float64, error) {
		w, err := r.watch(ctx, 8*time.Second)
		if err != nil {
			return nil, err
		}
		m, err := process.MemoryOf(r.generator.PID())
		return []float64{w.generator / w.seconds, w.generator / w.requests * 1e6, float64(m.Resident) / 1e6, float64(m.Anonymous) / 1e6, w.others / w.seconds}, err
	})
	if err != nil {
		return err
	}
	fmt.Printf("\n%d requests/s of %d tokens at %d tokens/s, medians of %d rounds:\n\n", l.rate, tokens, time.Second/l.interval, b.rounds)
	fmt.Println("| | cores | CPU for a request | resident MB | anonymous MB | others, cores |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: | ---: |")
	for _, g := range inside {
		m := func(i int) float64 { return median(all[g.name], i) }
		fmt.Printf("| %s | %.3f | %.0f µs | %.0f | %.0f | %.2f |\n", g.name, m(0), m(1), m(2), m(3), m(4))
	}
	return nil
}

// openStreams measures the memory of a generator that holds many streams, of one event
// a second each. It is measured once.
func (b *bench) openStreams(ctx context.Context) error {
	if err := process.NeedFiles(b.open + 100); err != nil {
		return err
	}
	const seconds = 10
	l := load{rate: b.open / seconds, duration: seconds * time.Second, events: 120, interval: time.Second}
	fmt.Printf("\nMemory with %d streams; open are those that the server answers:\n\n", l.requests())
	fmt.Println("| | open | resident MB | anonymous MB | kB a stream |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: |")
	for _, g := range generators {
		open, m, err := b.memory(ctx, g, l)
		if err != nil {
			return err
		}
		fmt.Printf("| %s | %d | %.0f | %.0f | %.0f |\n", g.name, open, float64(m.Resident)/1e6, float64(m.Anonymous)/1e6, float64(m.Resident)/1e3/float64(open))
	}
	return nil
}

// memory returns the memory of a generator, and how many streams it has open, when no
// more have been opened for a while.
func (b *bench) memory(ctx context.Context, g generator, l load) (open int64, m process.Memory, err error) {
	r, err := b.start(ctx, g, l)
	if err != nil {
		return 0, m, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.pause(ctx, l.duration); err != nil {
		return 0, m, err
	}
	for {
		if err := r.pause(ctx, 5*time.Second); err != nil {
			return 0, m, err
		}
		seen, err := r.record(ctx)
		if err != nil {
			return 0, m, err
		}
		if seen.Streaming <= open {
			break
		}
		open = seen.Streaming
	}
	m, err = process.MemoryOf(r.generator.PID())
	return open, m, err
}
