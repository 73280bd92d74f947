// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/proxy"

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
)

// single sends each request on a connection of its own, which ends with the answer, and
// reads the answer in the goroutine that asks for it. An http.Transport has two more
// goroutines for a connection, to keep it for others: 13 kB for as long as a stream is
// open, and twice as many switches from one to the other for each request.
type single struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	// maxHead is how long the head of an answer may be; http.Transport's default.
	maxHead = 10 << 20
	// Sizes of the buffers of a connection. A longer body is not buffered.
	singleRead, singleWrite = 1 << 10, 1 << 10
)

// newSingle returns nil where a transport has settings that single does not have.
func newSingle(o *Options) *single {
	t, ok := o.Transport.(*http.Transport)
	if !ok || o.Base.Scheme != "http" || o.ForwardProxy || t.MaxConnsPerHost > 0 || t.ResponseHeaderTimeout > 0 {
		return nil
	}
	dial := t.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return &single{dial}
}

// can reports whether it can send a request. It cannot where more may follow than one
// answer.
func (*single) can(r *http.Request) bool {
	return r.Header.Get("Upgrade") == "" && r.Header.Get("Expect") == ""
}

// RoundTrip implements http.RoundTripper.
func (s *single) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	address := r.URL.Host
	if r.URL.Port() == "" {
		address = net.JoinHostPort(r.URL.Hostname(), "80")
	}
	conn, err := s.dial(ctx, "tcp", address)
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	wrong := make(chan error, 1) // with what the client sends
	go func() {
		w := bufio.NewWriterSize(conn, singleWrite)
		err := r.Write(w)
		if err == nil {
			err = w.Flush()
		}
		if b, ok := r.Body.(*clientBody); ok && err != nil && b.failed != nil {
			wrong <- b.failed
			_ = conn.Close() // the server would wait for the rest
		}
	}()
	answer, err := readAnswer(conn, r)
	if err != nil {
		stop()
		_ = conn.Close()
		select {
		case err = <-wrong:
		default:
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
		}
		return nil, err
	}
	answer.Body = &singleBody{answer.Body, conn, ctx, stop}
	return answer, nil
}

// readAnswer reads the head of the answer, after those that say that it will come.
func readAnswer(conn net.Conn, r *http.Request) (*http.Response, error) {
	limited := &io.LimitedReader{R: conn, N: maxHead}
	in := bufio.NewReaderSize(limited, singleRead)
	for {
		answer, err := http.ReadResponse(in, r)
		switch {
		case err != nil && limited.N <= 0:
			return nil, fmt.Errorf("the head of the answer is longer than %d bytes", maxHead)
		case err != nil:
			return nil, err
		case answer.StatusCode == http.StatusSwitchingProtocols:
			return nil, errors.New("the server switches to a protocol that nobody asked for")
		case answer.StatusCode >= 200:
			limited.N = math.MaxInt64
			return answer, nil
		}
		if t := httptrace.ContextClientTrace(r.Context()); t != nil && t.Got1xxResponse != nil {
			if err := t.Got1xxResponse(answer.StatusCode, textproto.MIMEHeader(answer.Header)); err != nil {
				return nil, err
			}
		}
	}
}

// singleBody is an answer's body, with whose end its connection ends.
type singleBody struct {
	io.ReadCloser
	conn net.Conn
	ctx  context.Context
	stop func() bool
}

// Read implements io.Reader.
func (b *singleBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		_ = b.Close()
		if b.ctx.Err() != nil && !errors.Is(err, io.EOF) {
			err = context.Cause(b.ctx)
		}
	}
	return n, err
}

// Close implements io.Closer. It does not wait for the rest of the body.
func (b *singleBody) Close() error {
	b.stop()
	return b.conn.Close()
}
