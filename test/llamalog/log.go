// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package llamalog writes logs as llama-server b11669 writes them by default.
// test/simreal compares them with the real server's.
package llamalog

import (
	"fmt"
	"io"
	"time"
)

// Log is the log of one process. Its methods write what the process does at a
// time, which counts from the process's start; they are for one goroutine at a
// time, and each makes one call of Write. What Write returns is passed over, as
// the server does.
type Log struct {
	// Draft is the path of the model that drafts, "" where there is none.
	Draft string

	w      io.Writer
	prefix string // of a router's child
	buf    []byte
}

// New makes the log of a process. That of a router's child has the child's port
// in front of each line; port is 0 for any other process.
func New(w io.Writer, port int) *Log {
	l := &Log{w: w}
	if port != 0 {
		l.prefix = fmt.Sprintf("[%d] ", port)
	}
	return l
}

// line adds a line with a level and all that follows.
func (l *Log) line(at time.Duration, format string, args ...any) {
	us := at.Microseconds()
	l.buf = fmt.Appendf(l.buf, "%s%d.%02d.%03d.%03d ", l.prefix, us/60e6, us/1e6%60, us/1e3%1e3, us%1e3)
	l.buf = fmt.Appendf(l.buf, format, args...)
	l.buf = append(l.buf, '\n')
}

// flush writes the lines of one call.
func (l *Log) flush() {
	_, _ = l.w.Write(l.buf)
	l.buf = l.buf[:0]
}

// Initializing writes the first lines of a process, with a warning where it has
// no API key.
func (l *Log) Initializing(at time.Duration, key bool) {
	l.initializing(at)
	l.keyless(at, key)
	l.flush()
}

func (l *Log) initializing(at time.Duration) {
	l.line(at, "I srv  llama_server: initializing ...")
	l.line(at, "I cmn  common_param: common_params_print_info: verbosity = 3 (adjust with the `-lv N` CLI arg)")
}

func (l *Log) keyless(at time.Duration, key bool) {
	if !key {
		l.line(at, "W srv  llama_server: security: no API key is set and CORS allows all origins (see https://github.com/ggml-org/llama.cpp/pull/25655)")
	}
}

// Loading says that a model's file begins to be read, at the start or on waking.
func (l *Log) Loading(at time.Duration, path string) {
	l.line(at, "I srv    load_model: loading model '%s'", path)
	l.flush()
}

// Slots says that the model has its slots.
func (l *Log) Slots(at time.Duration, slots, context int) {
	l.line(at, "I cmn          init: llama threadpool init, n_threads = 1")
	if l.Draft != "" {
		l.line(at, "I common_speculative_init_result: loading draft model '%s'", l.Draft)
	}
	l.line(at, "I srv    load_model: initializing, n_slots = %d, n_ctx_slot = %d, kv_unified = 'false'", slots, context)
	l.flush()
}

// Loaded says that the first load of the model is over.
func (l *Log) Loaded(at time.Duration) {
	l.line(at, "I srv  llama_server: model loaded")
	l.flush()
}

// Listening says where the server takes requests.
func (l *Log) Listening(at time.Duration, url string) {
	l.line(at, "I srv  llama_server: listening on %s", url)
	l.flush()
}

// Monitored is what a router's child writes when it listens.
func (l *Log) Monitored(at time.Duration) {
	l.line(at, "I srv    operator(): child server monitoring thread started, waiting for EOF on stdin...")
	l.flush()
}

// Stop is the last line of a process that ends on SIGTERM.
func (l *Log) Stop(at time.Duration) {
	l.line(at, "I srv    operator(): operator(): cleaning up before exit...")
	l.flush()
}

// ExitCommand is what a router's child writes when the router stops it.
func (l *Log) ExitCommand(at time.Duration) {
	l.line(at, "I srv    operator(): exit command received, exiting...")
	l.flush()
}

// Sleep says that the model is unloaded for want of requests.
func (l *Log) Sleep(at time.Duration) {
	l.line(at, "I que    start_loop: entering sleeping state")
	l.line(at, "I srv  handle_sleep: server is entering sleeping state")
	l.flush()
}

// Wake says that the model is needed again.
func (l *Log) Wake(at time.Duration) {
	l.line(at, "I que    start_loop: exiting sleeping state")
	l.line(at, "I srv  handle_sleep: server is exiting sleeping state")
	l.flush()
}

// Cancel says that the client of a task has gone, or has got an error.
func (l *Log) Cancel(at time.Duration, task int64) {
	l.line(at, "W srv          stop: cancel task, id_task = %d", task)
	l.flush()
}

// Refuse says that a task fails.
func (l *Log) Refuse(at time.Duration, task int64, message string) {
	l.line(at, "E srv    send_error: task id = %d, error: %s", task, message)
	l.flush()
}

// Exception says that a request never became a task; body is that of the answer.
func (l *Log) Exception(at time.Duration, body string) {
	l.line(at, "W srv    operator(): got exception: %s", body)
	l.flush()
}

// Unauthorized says that a request lacks the API key.
func (l *Log) Unauthorized(at time.Duration) {
	l.line(at, "W srv    operator(): unauthorized: Invalid API Key")
	l.flush()
}
