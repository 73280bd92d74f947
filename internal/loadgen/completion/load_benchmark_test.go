// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/test/scriptedserver"
)

// The server of the benchmarks is a separate process, so that the CPU time and
// memory of this process are only the client's.
const asServer = "LOADGEN_BENCHMARK_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		serve()
		return
	}
	goleak.VerifyTestMain(m)
}

// serve answers each request with as many events as its header says, one in
// each interval, and each in a segment of its own; without an interval all at once.
func serve() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(ln.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent
		os.Exit(0)
	}()
	for {
		conn, err := ln.Accept()
		if err != nil {
			panic(err)
		}
		go answerAll(conn)
	}
}

func chunked(s string) []byte { return fmt.Appendf(nil, "%x\r\n%s\r\n", len(s), s) }

func answerAll(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	var (
		word = chunked(scriptedserver.Chunk("chatcmpl-UNQ65NJZ6S2A1ItypYLg8NSJpHHG8qdh", `{"content":" word"}`, "null"))
		in   = bufio.NewReader(conn)
	)
	for {
		q, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, q.Body); err != nil {
			return
		}
		events, err := strconv.Atoi(q.Header.Get("Events"))
		if err != nil {
			panic(err)
		}
		interval, err := time.ParseDuration(q.Header.Get("Interval"))
		if err != nil {
			panic(err)
		}
		head := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
		end := append(chunked(scriptedserver.Chunk("1", `{}`, `"length"`)+scriptedserver.Usage("1", 3, 0, events)+scriptedserver.Done), "0\r\n\r\n"...)
		if interval == 0 {
			if _, err := conn.Write(slices.Concat(head, bytes.Repeat(word, events), end)); err != nil {
				return
			}
			continue
		}
		if _, err := conn.Write(head); err != nil {
			return
		}
		begin := time.Now()
		for i := range events {
			time.Sleep(time.Until(begin.Add(time.Duration(i+1) * interval)))
			if _, err := conn.Write(word); err != nil {
				return
			}
		}
		if _, err := conn.Write(end); err != nil {
			return
		}
	}
}

// benchmarkClient starts the server and returns a client that requests such answers.
func benchmarkClient(b *testing.B, events int, interval time.Duration) *completion.Client {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asServer+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return newClient(b, "http://"+strings.TrimSpace(address), completion.Options{
		Header:  http.Header{"Events": {strconv.Itoa(events)}, "Interval": {interval.String()}},
		Timeout: time.Hour,
	})
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
