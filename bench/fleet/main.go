// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command fleet has the built collector watch fleets of busy simulated servers
// and prints what that costs and how well it keeps its clocks.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/collector"
	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/process"
	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/simfleet"
)

type options struct {
	binary   string
	duration time.Duration
	warmUp   time.Duration
	drop     bool
	batch    time.Duration
	slots    time.Duration
	profiles string
}

func main() {
	simfleet.Main()
	var o options
	sizes := flag.String("servers", "1,10,100,1000,5000", "sizes of the fleets")
	flag.StringVar(&o.binary, "collector", "../bin/otelcol-llamacpp", "the built `program`")
	flag.DurationVar(&o.duration, "duration", time.Minute, "how long each fleet is measured")
	flag.DurationVar(&o.warmUp, "warm-up", 15*time.Second, "how long the collector runs before")
	flag.BoolVar(&o.drop, "drop", false, "drop what is scraped in the collector, instead of exporting it by OTLP: measures CPU and memory only")
	flag.DurationVar(&o.batch, "batch", 100*time.Millisecond, "how long the exporter collects before it sends")
	flag.DurationVar(&o.slots, "interval", 500*time.Millisecond, "how often slots are scraped; the rest of a server is scraped half as often")
	flag.StringVar(&o.profiles, "profiles", "", "`folder` for a CPU and a heap profile of the collector, taken after each measurement")
	flag.Parse()
	if err := run(*sizes, o); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

func run(sizes string, o options) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	fmt.Println("| servers | cores | µs/server/s | simulator and sink, cores | others, cores | resident MB | peak MB | anonymous MB | points/s | MB/server/h, plain | sent | scraper | scrapes | missed | unanswered | off p50 | off p99 | off max |")
	fmt.Println("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
	for size := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			return fmt.Errorf("-servers: %w", err)
		}
		if err := measure(n, o, stop); err != nil {
			return fmt.Errorf("%d servers: %w", n, err)
		}
	}
	return nil
}

func measure(n int, o options, stop <-chan os.Signal) (err error) {
	// The simulator has a listener and a connection or two for each server.
	if err := process.NeedFiles(3*n + 100); err != nil {
		return err
	}
	fleet, err := simfleet.Start(n)
	if err != nil {
		return err
	}
	defer fleet.Stop()
	out := newSink()
	defer out.Close()
	c := collector.Config{Servers: fleet.URLs, Batch: o.batch}
	if o.slots != 500*time.Millisecond {
		c.Slots = o.slots
	}
	if !o.drop {
		c.OTLP = out.URL
	}
	col, err := collector.Start(o.binary, c)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, col.Stop())
		for _, line := range col.Warnings() {
			fmt.Fprint(os.Stderr, line)
		}
	}()
	if err := pause(o.warmUp, stop); err != nil {
		return err
	}

	from := time.Now()
	before, err := usage(col.PID(), fleet.PID())
	if err != nil {
		return err
	}
	var m process.Memory
	var resident, anonymous []int64
	for end := from.Add(o.duration); time.Now().Before(end); {
		if err := pause(min(time.Second, time.Until(end)), stop); err != nil {
			return err
		}
		if m, err = process.MemoryOf(col.PID()); err != nil {
			return err
		}
		resident, anonymous = append(resident, m.Resident), append(anonymous, m.Anonymous)
	}
	to := time.Now()
	used, err := usage(col.PID(), fleet.PID())
	if err != nil {
		return err
	}
	for i := range used {
		used[i] = max(0, used[i]-before[i]) / to.Sub(from).Seconds()
	}
	if o.profiles != "" {
		err = errors.Join(
			col.Profile("profile?seconds=10", fmt.Sprintf("%s/fleet-%d-cpu.pprof", o.profiles, n)),
			col.Profile("heap", fmt.Sprintf("%s/fleet-%d-heap.pprof", o.profiles, n)))
	} else {
		err = pause(3*time.Second, stop) // for the last batch
	}
	if err != nil {
		return err
	}
	head := fmt.Sprintf("| %d | %.3f | %.0f | %.2f | %.2f | %d | %d | %d |", n, used[0], used[0]*1e6/float64(n), used[1], used[2],
		median(resident)>>20, m.Peak>>20, median(anonymous)>>20)
	if o.drop {
		fmt.Println(head + " | | | | | | | | | |")
		return nil
	}
	scrapers := scrapersAt(o.slots)
	all, sum, err := out.scrapes(scrapers, from, to)
	if err != nil {
		return err
	}
	hour := 3600 / to.Sub(from).Seconds() / float64(n) / 1e6
	head += fmt.Sprintf(" %.0f | %.0f | %.1f |", float64(sum.points)/to.Sub(from).Seconds(), float64(sum.plain)*hour, float64(sum.sent)*hour)
	for _, k := range scrapers {
		t := timingOf(k, all, n, from, to)
		fmt.Printf("%s %s, %s | %d | %d | %d | %s | %s | %s |\n", head, k.name, k.interval,
			t.scrapes, t.missed, t.unanswered, ms(t.p50), ms(t.p99), ms(t.worst))
		head = "| | | | | | | | | | | |"
	}
	return nil
}

var errStopped = errors.New("stopped")

// pause waits, but not longer than until the user has had enough.
func pause(d time.Duration, stop <-chan os.Signal) error {
	select {
	case <-time.After(d):
		return nil
	case <-stop:
		return errStopped
	}
}

// usage is the CPU time, in seconds, of the collector, of what it works with,
// and of everything else on the machine.
func usage(collector, simulator int) (used [3]float64, err error) {
	all, err1 := process.Machine()
	col, err2 := process.CPU(collector)
	sim, err3 := process.CPU(simulator)
	self, err4 := process.Self()
	return [3]float64{col.Seconds(), (sim + self).Seconds(), (all - col - sim - self).Seconds()}, errors.Join(err1, err2, err3, err4)
}

func median(xs []int64) int64 {
	if len(xs) == 0 {
		return 0
	}
	xs = slices.Sorted(slices.Values(xs))
	return xs[len(xs)/2]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }
