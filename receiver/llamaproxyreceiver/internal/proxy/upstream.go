// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/proxy"

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// errHeadTimeout is why a request without an answer ends.
var errHeadTimeout = errors.New("no answer in time")

// errClientBody is why a request fails whose body the client did not send to its end.
var errClientBody = errors.New("the client's request is not complete")

// upstream sends requests to the server.
//
// llama-server closes a connection after a stream although it announces to keep it, and
// the next request on it would get no answer. A connection is reused only if what
// answers is something else, such as a gateway.
type upstream struct {
	transport http.RoundTripper
	single    *single // nil where only the transport will do
	timeout   time.Duration
	keeps     atomic.Bool
}

// RoundTrip implements http.RoundTripper.
func (u *upstream) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	if u.timeout > 0 {
		limited, cancel := context.WithCancelCause(ctx) // ends with the request
		late := time.AfterFunc(u.timeout, func() { cancel(errHeadTimeout) })
		defer late.Stop()
		ctx = limited
	}
	r = r.WithContext(ctx)
	r.Close = !u.keeps.Load()
	switch {
	case r.Body != nil && r.Body != http.NoBody:
		r.Body = &clientBody{ReadCloser: r.Body}
	case !r.Close:
		once(r)
	}
	transport := u.transport
	if r.Close && u.single != nil && u.single.can(r) {
		transport = u.single
	}
	answer, err := transport.RoundTrip(r)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errHeadTimeout) {
			return nil, cause
		}
		return nil, err
	}
	if keeps := answer.Header.Get("Server") != "llama.cpp"; keeps != u.keeps.Load() {
		u.keeps.Store(keeps)
	}
	return answer, nil
}

// once keeps Go's client from sending a request a second time, as it does with one of
// these methods and no body if a reused connection ends before an answer.
func once(r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		r.Body = io.NopCloser(strings.NewReader("")) // it finds out that this is none
	}
}

// clientBody marks errors of the client's connection, which are none of the server's.
type clientBody struct {
	io.ReadCloser
	failed error // of the last read
}

func (b *clientBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !isTooLarge(err) {
		err = errors.Join(errClientBody, err)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.failed = err
	}
	return n, err
}

// buffers are an httputil.BufferPool. They are small, since 10,000 open streams have as
// many.
type buffers struct{}

const bufferSize = 2 << 10

var pool = sync.Pool{New: func() any { return new([bufferSize]byte) }}

func (buffers) Get() []byte  { return pool.Get().(*[bufferSize]byte)[:] }
func (buffers) Put(b []byte) { pool.Put((*[bufferSize]byte)(b)) }
