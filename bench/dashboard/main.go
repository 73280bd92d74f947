// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command dashboard measures the live page: what it weighs, how fast it is there and
// shows a sample, and what it costs to keep a day and to have viewers. It needs
// Chromium on PATH and the built collector.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

type options struct {
	binary, config string
	duration       time.Duration
	warmUp         time.Duration
	rounds, probes int
	history        time.Duration
	fleet          int
	fleetHistory   time.Duration
	recording      string
	only           string
}

func main() {
	if os.Getenv(keeperRole) != "" {
		if err := keep(); err != nil {
			fmt.Fprintln(os.Stderr, "keep the history:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.binary, "collector", "../bin/otelcol-llamacpp", "the built `program`")
	flag.StringVar(&o.config, "config", "../collector-config.yaml", "its configuration")
	flag.DurationVar(&o.duration, "duration", 20*time.Second, "how long CPU time is measured")
	flag.DurationVar(&o.warmUp, "warm-up", 10*time.Second, "how long the collector runs before")
	flag.IntVar(&o.rounds, "rounds", 3, "how often; medians are printed")
	flag.IntVar(&o.probes, "probes", 40, "how many samples are followed to the pixel")
	flag.DurationVar(&o.history, "history", 24*time.Hour, "history of one server with 8 GPUs")
	flag.IntVar(&o.fleet, "fleet", 50, "servers of a fleet")
	flag.DurationVar(&o.fleetHistory, "fleet-history", time.Hour, "history of the fleet")
	flag.StringVar(&o.recording, "recording", "", "a `file` for the minute that is recorded, which is used again if it is there")
	flag.StringVar(&o.only, "only", "", "`parts` to measure, separated by commas: cpu, page, fleet; all by default")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

func (o options) wants(part string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), part)
}

// warmed is how much of the recording's beginning is left out.
const warmed = 10 * time.Second

func run(o options) error {
	s, err := newStage()
	if err != nil {
		return err
	}
	defer s.close()
	recording := cmp.Or(o.recording, filepath.Join(s.folder, "minute.json"))
	if _, err := os.Stat(recording); err != nil {
		if err := s.record(o, recording, warmed+minute+5*time.Second); err != nil {
			return err
		}
	}
	fmt.Println("| | measured | budget |")
	fmt.Println("| --- | ---: | ---: |")
	if o.wants("cpu") {
		without, with, err := s.usage(o, 0, 1, 200)
		if err != nil {
			return err
		}
		row("CPU of the collector, one server and 8 GPUs, without the page", percent(without), "")
		for i, who := range []string{"nobody looks", "1 viewer", "200 viewers"} {
			row("the same with the page, "+who, fmt.Sprintf("%s, %s more", percent(with[i]), percent(with[i]-without)), []string{"2 % more", "", "5 % more"}[i])
		}
	}
	t := task{Recording: recording, Skip: warmed, Servers: 1, Unattended: 20 * time.Second}
	if o.wants("page") {
		if err := one(o, t); err != nil {
			return err
		}
	}
	if o.wants("fleet") {
		t.Servers = o.fleet
		return fleet(o, t)
	}
	return nil
}

// one measures the history of one server, and the page on it.
func one(o options, t task) error {
	empty, err := startKeeper(t)
	if err != nil {
		return err
	}
	empty.stop()
	t.History = o.history
	full, err := startKeeper(t)
	if err != nil {
		return err
	}
	defer full.stop()
	rowsOf(fmt.Sprintf("one server and 8 GPUs, %s", hours(o.history)), empty.kept, full.kept, "150 MB more")
	if err := snapshots(full.kept, o); err != nil {
		return err
	}
	p, err := browse(full, o)
	if err != nil {
		return err
	}
	row("the page's files, compressed", fmt.Sprintf("%.1f kB in %d requests (%.0f kB plain)", float64(p.Compressed)/1e3, p.Requests, float64(p.Plain)/1e3), "100 kB")
	row("its first data, compressed: 5 min", fmt.Sprintf("%.1f kB", float64(p.Data)/1e3), "")
	row("first chart, 5 min", ms(p.first), "")
	row("24 h drawn: charts in the window", ms(p.cold), "1,000 ms")
	row("24 h drawn: all charts", ms(p.coldAll), "")
	row("24 h drawn for a viewer soon after another", ms(p.warm), "")
	row("time of a frame with 24 h: p50, p95, largest", fmt.Sprintf("%.1f, %.1f, %.1f ms", quantile(p.frames, 0.5), quantile(p.frames, 0.95), quantile(p.frames, 1)), "")
	row("CPU of the browser with 24 h", percent(p.browser), "")
	row("sample to pixel: p50, p95", fmt.Sprintf("%.0f, %.0f ms", quantile(p.pixel, 0.5), quantile(p.pixel, 0.95)), "p95 250 ms")
	return nil
}

// fleet measures the history of many servers.
func fleet(o options, t task) error {
	empty, err := startKeeper(t)
	if err != nil {
		return err
	}
	empty.stop()
	t.History = o.fleetHistory
	full, err := startKeeper(t)
	if err != nil {
		return err
	}
	defer full.stop()
	rowsOf(fmt.Sprintf("%d servers, %s", t.Servers, hours(o.fleetHistory)), empty.kept, full.kept, "")
	return snapshots(full.kept, o)
}

func rowsOf(what string, empty, full kept, budget string) {
	more := func(a, b int64) string { return fmt.Sprintf("%d MB, %d MB more than without", b>>20, (b-a)>>20) }
	row(what+": points, series", fmt.Sprintf("%.1f million, %d", float64(full.Points)/1e6, full.Series), "")
	row(what+": resident", more(empty.Resident, full.Resident), budget)
	row(what+": anonymous", more(empty.Anonymous, full.Anonymous), "")
	row(what+": live heap", more(empty.Heap, full.Heap), "")
	row(what+": on disk", fmt.Sprintf("%d MB, %.1f bytes a point", full.Disk>>20, float64(full.Disk)/float64(max(1, full.Points))), "")
	row(what+": time to keep a point", fmt.Sprintf("%.2f µs", full.Took.Seconds()*1e6/float64(max(1, full.Points))), "")
}

// snapshots times what the page asks for first.
func snapshots(k kept, o options) error {
	for _, w := range []struct {
		name   string
		length int
	}{{"5 min", 300}, {"24 h", 86400}} {
		var took []float64
		size := 0
		for i := range max(3, o.rounds) {
			// Another window each time: no answer of the time before will do.
			url := fmt.Sprintf("%s/live/snapshot?window=%d&points=720", k.URL, w.length-i)
			request, err := http.NewRequest(http.MethodGet, url, http.NoBody)
			if err != nil {
				return err
			}
			request.Header.Set("Accept-Encoding", "gzip")
			began := time.Now()
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				return err
			}
			body, err := io.ReadAll(response.Body)
			_ = response.Body.Close()
			if err != nil {
				return err
			}
			if response.StatusCode != http.StatusOK {
				return fmt.Errorf("%s: %s", url, response.Status)
			}
			took = append(took, time.Since(began).Seconds()*1e3)
			size = len(body)
		}
		row("/live/snapshot, "+w.name, fmt.Sprintf("%s, %.1f kB compressed", ms(took), float64(size)/1e3), "")
	}
	return nil
}

func row(what, measured, budget string) { fmt.Printf("| %s | %s | %s |\n", what, measured, budget) }

func hours(d time.Duration) string { return fmt.Sprintf("%g h", d.Hours()) }

func percent(cores float64) string { return fmt.Sprintf("%.1f %%", 100*cores) }

// ms is the median, with the least and the greatest.
func ms(all []float64) string {
	return fmt.Sprintf("%.0f ms (%.0f to %.0f)", median(all), slices.Min(all), slices.Max(all))
}

func median(all []float64) float64 { return quantile(all, 0.5) }

func quantile(all []float64, q float64) float64 {
	if len(all) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}
