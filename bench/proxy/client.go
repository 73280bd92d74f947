// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// role is the variable that turns this program into the clients. Its value is their load.
const role = "LLAMACPP_BENCH_CLIENTS"

// load is what the clients send.
type load struct {
	// Address is where they send it.
	Address string
	Header  http.Header
	// Rate is in requests per second, at equal gaps. If it is 0, each of Users sends its
	// next request when the last is answered.
	Rate, Users int
	// No request begins after Duration. Those in the time of WarmUp do not count.
	WarmUp, Duration time.Duration
	// Reuse says that connections are kept for the next request.
	Reuse bool
}

// result is what the clients have seen.
type result struct {
	Requests int
	// P50 and P99 are of the time to the first byte, in ms, from when a request is begun:
	// its connection is part of that if it has to be made.
	P50, P99 float64
}

// clientMain turns this process into the clients if startClients has started it.
func clientMain() {
	text := os.Getenv(role)
	if text == "" {
		return
	}
	debug.SetGCPercent(1000) // pauses would look like slow answers
	var c clients
	err := json.Unmarshal([]byte(text), &c.load)
	if err == nil {
		err = c.run()
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(c.result())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type clients struct {
	load    load
	request []byte
	begin   time.Time
	running sync.WaitGroup

	mu    sync.Mutex
	idle  []*connection
	first []time.Duration
	err   error
}

type connection struct {
	net.Conn
	buffer [4 << 10]byte
}

const body = `{"messages":[{"role":"user","content":"[00f3a2c1b4d5] What is the difference between latency and throughput of an inference server?"}],` +
	`"max_tokens":100,"temperature":0.7,"seed":1234567890,"stream":true,"stream_options":{"include_usage":true}}`

func (c *clients) run() error {
	q, err := http.NewRequest(http.MethodPost, "http://"+c.load.Address+"/v1/chat/completions", bytes.NewReader([]byte(body))) //nolint:noctx // only its bytes are sent
	if err != nil {
		return err
	}
	q.Header = c.load.Header
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("Accept", "text/event-stream")
	q.Header.Set("Authorization", "Bearer sk-0123456789abcdef")
	var b bytes.Buffer
	if err := q.Write(&b); err != nil {
		return err
	}
	c.request = b.Bytes()
	c.begin = time.Now()
	if c.load.Rate > 0 {
		err = c.atRate()
	} else {
		for range c.load.Users {
			c.running.Go(func() {
				for time.Since(c.begin) < c.load.Duration && c.failure() == nil {
					c.send()
				}
			})
		}
	}
	c.running.Wait()
	return errors.Join(err, c.err)
}

// atRate sends requests at equal gaps. It waits by the kernel's clock, since Go's timers
// would send two at a time.
func (c *clients) atRate() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	gap := time.Second / time.Duration(c.load.Rate)
	for i := range int(c.load.Duration / gap) {
		at := unix.NsecToTimespec(now.Nano() + int64(i)*int64(gap))
		for errors.Is(unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &at, nil), unix.EINTR) {
		}
		if err := c.failure(); err != nil {
			return err
		}
		c.running.Go(c.send)
	}
	return nil
}

func (c *clients) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// send sends a request and reads its answer.
func (c *clients) send() {
	began := time.Now()
	first, err := c.exchange()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.err == nil {
		c.err = err
	}
	if began.Sub(c.begin) >= c.load.WarmUp {
		c.first = append(c.first, first.Sub(began))
	}
}

// exchange returns when the first byte of the answer came.
func (c *clients) exchange() (first time.Time, err error) {
	conn := c.take()
	if conn == nil {
		made, err := net.Dial("tcp", c.load.Address) //nolint:noctx // it is on this machine
		if err != nil {
			return first, err
		}
		conn = &connection{Conn: made}
	}
	if _, err := conn.Write(c.request); err != nil {
		return first, err
	}
	var ended [5]byte
	reuse := c.load.Reuse
	for {
		n, err := conn.Read(conn.buffer[:])
		if err != nil {
			return first, err
		}
		read := conn.buffer[:n]
		if first.IsZero() {
			first = time.Now()
			if !bytes.HasPrefix(read, []byte("HTTP/1.1 200 ")) {
				return first, fmt.Errorf("answered: %s", read)
			}
			reuse = reuse && !bytes.Contains(read, []byte("\r\nConnection: close\r\n"))
		}
		if n < len(ended) {
			copy(ended[:], ended[n:])
		}
		tail := read[max(0, n-len(ended)):]
		copy(ended[len(ended)-len(tail):], tail)
		if string(ended[:]) == "0\r\n\r\n" { // no event ends like this
			break
		}
	}
	if !reuse {
		return first, conn.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, conn)
	return first, nil
}

func (c *clients) take() *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.idle)
	if n == 0 {
		return nil
	}
	conn := c.idle[n-1]
	c.idle = c.idle[:n-1]
	return conn
}

func (c *clients) result() result {
	slices.Sort(c.first)
	n := len(c.first)
	if n == 0 {
		return result{}
	}
	return result{Requests: n, P50: milliseconds(c.first[n/2]), P99: milliseconds(c.first[n*99/100])}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
