// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package eventserver is an inference server for benchmarks of clients. It writes
// prepared bytes to connections without net/http, to cost less than the client, and runs
// in a process of its own, so that its CPU time and memory are not taken for the
// client's.
package eventserver

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/scriptedserver"
)

// Record is what the server has seen.
type Record struct {
	// Arrivals are when the first byte of each request arrived, after the server's
	// start, in order.
	Arrivals []time.Duration
	// Events is the number of events sent.
	Events int64
	// Streaming is the number of answers under way.
	Streaming int64
}

// Headers of a request say how it is answered: with so many events, one in each
// interval and each in a segment of its own; without an interval, all at once.
const (
	eventsHeader   = "Events"
	intervalHeader = "Interval"
	closesHeader   = "Closes"
)

// Header returns the header of requests that are answered with that many events, one in
// each interval, or all at once if it is 0.
func Header(events int, interval time.Duration) http.Header {
	return http.Header{eventsHeader: {strconv.Itoa(events)}, intervalHeader: {interval.String()}}
}

// Closing adds to the header of requests that the server calls itself llama.cpp and
// closes the connection after an answer, as llama-server does after a stream.
func Closing(h http.Header) http.Header {
	h.Set(closesHeader, "yes")
	return h
}

// recordPath is where the record of the server is read, which begins a new one.
const recordPath = "/record"

type server struct {
	start             time.Time
	streaming, events atomic.Int64

	mu       sync.Mutex
	arrivals []time.Duration
}

// serve listens on a port of its choice, prints the address, and answers requests until
// standard input ends, as it does with the process that started this one.
func serve() {
	debug.SetGCPercent(1000) // pauses would look like late requests
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(ln.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	s := &server{start: time.Now()}
	for {
		conn, err := ln.Accept()
		if err != nil {
			panic(err)
		}
		go s.converse(conn)
	}
}

// converse answers the requests of a connection until the client closes it.
func (s *server) converse(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 1<<10) // 10,000 connections have one each
	for {
		if _, err := in.Peek(1); err != nil {
			return
		}
		arrived := time.Since(s.start)
		q, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, q.Body); err != nil {
			return
		}
		switch {
		case q.URL.Path == recordPath:
			err = s.tell(conn)
		case q.Method != http.MethodPost: // a client that looks for metrics, say
			_, err = io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
		default:
			err = s.answer(conn, q.Header, arrived)
		}
		if err != nil || q.Close || q.Header.Get(closesHeader) != "" {
			return
		}
	}
}

// tell sends the record and begins a new one.
func (s *server) tell(conn io.Writer) error {
	s.mu.Lock()
	r := Record{Arrivals: s.arrivals, Events: s.events.Swap(0), Streaming: s.streaming.Load()}
	s.arrivals = nil
	s.mu.Unlock()
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
	return err
}

const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"

var (
	heads = map[bool][]byte{false: []byte(head + "\r\n"), true: []byte(head + "Server: llama.cpp\r\n\r\n")}
	event = chunk(scriptedserver.Chunk("chatcmpl-UNQ65NJZ6S2A1ItypYLg8NSJpHHG8qdh", `{"content":" word"}`, "null"))
)

func chunk(s string) []byte { return fmt.Appendf(nil, "%x\r\n%s\r\n", len(s), s) }

func end(events int) []byte {
	last := scriptedserver.Chunk("1", `{}`, `"length"`) + scriptedserver.Usage("1", 3, 0, events) + scriptedserver.Done
	return append(chunk(last), "0\r\n\r\n"...)
}

// answer streams the events that the header asks for.
func (s *server) answer(conn io.Writer, header http.Header, arrived time.Duration) error {
	events, err := strconv.Atoi(header.Get(eventsHeader))
	if err != nil {
		return err
	}
	interval, err := time.ParseDuration(header.Get(intervalHeader))
	if err != nil {
		return err
	}
	head := heads[header.Get(closesHeader) != ""]
	s.mu.Lock()
	s.arrivals = append(s.arrivals, arrived)
	s.mu.Unlock()
	s.streaming.Add(1)
	defer s.streaming.Add(-1)
	if interval == 0 {
		s.events.Add(int64(events))
		_, err := conn.Write(slices.Concat(head, bytes.Repeat(event, events), end(events)))
		return err
	}
	if _, err := conn.Write(head); err != nil {
		return err
	}
	begin := time.Now()
	for i := range events {
		time.Sleep(time.Until(begin.Add(time.Duration(i+1) * interval)))
		if _, err := conn.Write(event); err != nil {
			return err
		}
		s.events.Add(1)
	}
	_, err = conn.Write(end(events))
	return err
}
