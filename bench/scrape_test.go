// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package bench measures what watching costs; docs/performance.md has the
// figures and says how to read them.
package bench

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/process"
	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/simfleet"
)

var (
	servers = flag.Int("servers", 200, "simulated servers that BenchmarkScrape reads, each once a second")
	window  = flag.Duration("window", 5*time.Second, "how long BenchmarkScrape measures each way of reading")
	profile = flag.String("profiles", "", "`folder` for a CPU profile of each way of reading")
)

const watcherRole = "LLAMACPP_BENCH_WATCH"

func TestMain(m *testing.M) {
	simfleet.Main()
	flag.Parse()
	if name := os.Getenv(watcherRole); name != "" {
		if err := watch(name, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, name+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// cost is what one scrape of one server costs.
type cost struct {
	CPU     time.Duration // user and system, of the whole process
	Allocs  float64
	Bytes   float64
	Scrapes int64
}

// BenchmarkScrape reads a number of busy simulated servers, once a second each,
// in several ways in turn. Each way is a process of its own, and so are the
// servers: only the reader's CPU time counts. Run it with -benchtime 1x; with
// -count N the ways alternate N times.
func BenchmarkScrape(b *testing.B) {
	fleet, err := simfleet.Start(*servers)
	if err != nil {
		b.Fatal(err)
	}
	defer fleet.Stop()
	time.Sleep(3 * time.Second) // until the slots have all been used
	for b.Loop() {
		c := map[string]cost{}
		for _, name := range []string{"get-metrics", "llamacpp-server", "prometheus", "get-both", "get-clocks", "llamacpp-both"} {
			c[name] = measure(b, name, fleet.URLs)
			b.ReportMetric(c[name].CPU.Seconds()*1e6, name+"-µs")
			b.ReportMetric(c[name].Allocs, name+"-allocs")
		}
		ratio := func(name, to string) { b.ReportMetric(c[name].CPU.Seconds()/c[to].CPU.Seconds(), name+"/"+to) }
		ratio("llamacpp-server", "get-metrics")
		ratio("llamacpp-server", "prometheus")
		ratio("llamacpp-both", "get-both")
		ratio("llamacpp-both", "get-clocks")
	}
	b.ReportMetric(0, "ns/op") // would be the windows
}

// measure runs this program as another process, which reads the servers in the
// way of that name.
func measure(b *testing.B, name string, urls []string) cost {
	b.Helper()
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), watcherRole+"="+name)
	cmd.Stdin = strings.NewReader(strings.Join(urls, "\n"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("%s: %v", name, err)
	}
	var c cost
	if err := json.Unmarshal(out, &c); err != nil {
		b.Fatalf("%s: %v", name, err)
	}
	if due := int64(float64(len(urls)) * window.Seconds()); c.Scrapes < due*95/100 {
		b.Fatalf("%s: made %d scrapes of %d: the machine is too busy, or take fewer -servers", name, c.Scrapes, due)
	}
	return c
}

// watch reads the servers whose URLs come in until it has measured that, and
// prints the cost.
func watch(name string, in io.Reader, out io.Writer) (err error) {
	var urls []string
	for lines := bufio.NewScanner(in); lines.Scan(); {
		urls = append(urls, lines.Text())
	}
	var scrapes atomic.Int64
	stop, err := readers[name](urls, &scrapes)
	if err != nil {
		return err
	}
	// Prometheus needs a few seconds to find its targets.
	for deadline := time.Now().Add(time.Minute); scrapes.Load() < 2*int64(len(urls)); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("made only %d scrapes in a minute", scrapes.Load())
		}
	}
	if *profile != "" {
		f, err := os.Create(*profile + "/" + name + ".pprof")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
	}
	cpu1, err1 := process.Self()
	var mem1, mem2 runtime.MemStats
	runtime.ReadMemStats(&mem1)
	n1 := scrapes.Load()
	time.Sleep(*window)
	n := scrapes.Load() - n1
	runtime.ReadMemStats(&mem2)
	cpu2, err2 := process.Self()
	pprof.StopCPUProfile()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	err = json.NewEncoder(out).Encode(cost{
		CPU:     (cpu2 - cpu1) / time.Duration(max(n, 1)),
		Allocs:  float64(mem2.Mallocs-mem1.Mallocs) / float64(max(n, 1)),
		Bytes:   float64(mem2.TotalAlloc-mem1.TotalAlloc) / float64(max(n, 1)),
		Scrapes: n,
	})
	return errors.Join(err, stop())
}
