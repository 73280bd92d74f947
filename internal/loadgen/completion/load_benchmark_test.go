// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion_test

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/test/eventserver"
)

// The benchmarks' server is a process of its own: this program, started again.
func TestMain(m *testing.M) {
	eventserver.Main()
	goleak.VerifyTestMain(m)
}

// benchmarkClient starts the server and returns a client that requests answers of
// that many events, one in each interval.
func benchmarkClient(b *testing.B, events int, interval time.Duration) *completion.Client {
	b.Helper()
	s, err := eventserver.Start()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return newClient(b, s.URL, completion.Options{Header: eventserver.Header(events, interval), Timeout: time.Hour})
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Long streams: the cost of an event that arrives alone, including system calls and
// the scheduler.
func BenchmarkStreams(b *testing.B) {
	const (
		streams  = 100
		interval = 2 * time.Millisecond // 50,000 events a second
	)
	c := benchmarkClient(b, max(1, b.N/streams), interval)
	var (
		all  sync.WaitGroup
		seen atomic.Int64
	)
	before := cpuTime(b)
	b.ResetTimer()
	for range streams {
		all.Go(func() {
			r := c.Do(b.Context(), chat, time.Now())
			if r.Err != nil {
				b.Error(r.Err)
			}
			seen.Add(int64(r.Chunks))
		})
	}
	all.Wait()
	cpu := cpuTime(b) - before
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(seen.Load()), "cpu-ns/event")
	b.ReportMetric(float64(seen.Load())/cpu.Seconds(), "events/s/core")
}

// Short answers: the cost of a request with eight events.
func BenchmarkRequests(b *testing.B) {
	c := benchmarkClient(b, 8, 0)
	before := cpuTime(b)
	b.ReportAllocs()
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if r := c.Do(b.Context(), chat, time.Now()); r.Err != nil || r.Chunks != 8 {
				b.Error(r.Err, r.Chunks)
			}
		}
	})
	cpu := cpuTime(b) - before
	b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-µs/request")
	b.ReportMetric(float64(b.N)/cpu.Seconds(), "requests/s/core")
}

// Many open streams: the memory that each of them needs.
func BenchmarkOpenStreams(b *testing.B) {
	const streams = 10_000
	for range b.N {
		c := benchmarkClient(b, 20, time.Second)
		debug.FreeOSMemory() // what an earlier round has left
		before := resident(b)
		var all sync.WaitGroup
		for range streams {
			all.Go(func() {
				if r := c.Do(b.Context(), chat, time.Now()); r.Err != nil {
					b.Error(r.Err)
				}
			})
			time.Sleep(200 * time.Microsecond) // or the queue of connections overflows
		}
		time.Sleep(5 * time.Second)
		held := resident(b) - before
		all.Wait()
		b.ReportMetric(float64(held)/streams, "B/stream")
		b.ReportMetric(float64(held)/1e6, "MB")
	}
}

// resident returns the resident set size of the process, in bytes.
func resident(b *testing.B) int {
	b.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Skip(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		b.Fatal(err)
	}
	return pages * os.Getpagesize()
}
