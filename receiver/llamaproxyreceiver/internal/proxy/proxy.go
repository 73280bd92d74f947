// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package proxy passes HTTP requests on to one llama-server, and measures them.
//
// Nothing is held back to be measured: an answer's bytes are looked at after they
// were passed on, and a request's not at all. No text is kept.
package proxy // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/proxy"

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/netfailure"
)

// Options define where requests go, and how.
type Options struct {
	// Base is the server's URL, whose path goes in front of each request's.
	Base *url.URL
	// Transport sends requests. Compresses says that it may ask for a compressed answer
	// of its own accord, and unpack it, unless a request has a header Accept-Encoding.
	Transport  http.RoundTripper
	Compresses bool
	// HeadTimeout limits the time until the head of an answer; 0 is no limit.
	HeadTimeout time.Duration
	// ForwardProxy says that requests go through a proxy, which wants the whole URL of
	// each and gets its path as Go writes it.
	ForwardProxy bool
	// PreserveHost passes the client's Host header on. Otherwise it is that of Base.
	PreserveHost bool
	// ForwardedHeaders adds X-Forwarded-For, -Host and -Proto. Otherwise they pass as
	// the client sent them.
	ForwardedHeaders bool
	// MaxAnswer is the maximum size in bytes of an event, or of an answer that is not
	// streamed, that is read to be measured. All sizes pass.
	MaxAnswer int
	// Log gets what the proxy itself has to say.
	Log *zap.Logger
	// Observer is told of each request.
	Observer Observer
}

// Observer is told of requests, from their own goroutines. It must not block.
type Observer interface {
	// Arrived is called when the head of a request has arrived.
	Arrived(*Exchange)
	// Answering is called when the head of its answer has come.
	Answering(*Exchange)
	// Ended is called when all has passed, or will not any more.
	Ended(*Exchange)
}

// Proxy is an http.Handler that passes requests on.
type Proxy struct {
	options Options
	server  netfailure.Server
	reverse httputil.ReverseProxy
	life    context.Context // ends with Stop
	end     context.CancelCauseFunc
	running sync.WaitGroup
	down    atomic.Bool // the last request got no answer
}

// errStopped is why requests end that are still under way when the proxy stops.
var errStopped = errors.New("the proxy has stopped")

// New returns a proxy.
func New(o Options) *Proxy {
	p := &Proxy{options: o, server: netfailure.Server{Base: *o.Base, Name: "llama-server", Rename: renamed}}
	p.life, p.end = context.WithCancelCause(context.Background())
	p.reverse = httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      &upstream{transport: o.Transport, single: newSingle(&o), timeout: o.HeadTimeout},
		ModifyResponse: p.answered,
		ErrorHandler:   p.failed,
		ErrorLog:       zap.NewStdLog(o.Log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
		BufferPool:     buffers{},
	}
	return p
}

// renamed names settings as they are called here.
func renamed(cure string) string {
	return strings.NewReplacer(
		"proxy_url", "upstream::proxy_url", "in endpoint", "in upstream::endpoint", "set endpoint", "set upstream::endpoint",
		"tls::", "upstream::tls::", "raise timeout", "raise upstream::timeout",
	).Replace(cure)
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.running.Add(1)
	defer p.running.Done()
	x := newExchange(r)
	ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), exchangeKey{}, x))
	defer cancel(nil)
	defer context.AfterFunc(p.life, func() { cancel(errStopped) })()
	x.writer, x.ctx = w, ctx

	p.options.Observer.Arrived(x)
	defer func() {
		x.end(time.Now())
		p.options.Observer.Ended(x)
	}()
	switch {
	case r.Method == http.MethodConnect:
		x.status, x.failure = http.StatusNotImplemented, "method"
		refuse(w, http.StatusNotImplemented, "CONNECT: this is the proxy of one llama-server, not one for all hosts")
		return
	case r.Method == "PRI": // the beginning of HTTP/2, which Go's server takes for a request
		x.status, x.failure = http.StatusHTTPVersionNotSupported, "method"
		refuse(w, http.StatusHTTPVersionNotSupported, "HTTP/2 needs TLS here")
		return
	case strings.Contains(r.RequestURI, " "): // of HTTP/2, where Go's server lets it pass: in HTTP/1 the line would end there
		x.status, x.failure = http.StatusBadRequest, "400"
		refuse(w, http.StatusBadRequest, "a space in the path or the query")
		return
	}
	// The answer may come before the request is complete, such as a refusal.
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 always is
	p.reverse.ServeHTTP(w, r.WithContext(ctx))
	x.passed = true
}

// Stop ends the requests that are still under way, and waits for them.
func (p *Proxy) Stop() {
	p.end(errStopped)
	p.running.Wait()
}

// Wait waits until no request is under way, and reports whether that was so before ctx
// ended.
func (p *Proxy) Wait(ctx context.Context) bool {
	idle := make(chan struct{})
	go func() { p.running.Wait(); close(idle) }() // Stop ends it
	select {
	case <-idle:
		return true
	case <-ctx.Done():
		return false
	}
}

// rewrite addresses a request to the server, and undoes what a ReverseProxy changes in
// it.
func (p *Proxy) rewrite(r *httputil.ProxyRequest) {
	in, out := r.In.URL, r.Out.URL
	out.Scheme, out.Host, out.User = p.options.Base.Scheme, p.options.Base.Host, nil
	out.Path, out.RawPath = p.options.Base.Path+in.Path, ""
	raw, _, _ := strings.Cut(r.In.RequestURI, "?")
	switch {
	case raw == "*": // OPTIONS * asks about the server itself
		out.Path, out.Opaque = "", "*"
	case strings.HasPrefix(raw, "/") && !p.options.ForwardProxy && (p.options.Base.Path != "" || !strings.HasPrefix(raw, "//")):
		// What stands here is sent as it is: percent signs and all.
		out.Opaque = p.options.Base.EscapedPath() + raw
	default:
		out.RawPath = p.options.Base.EscapedPath() + in.EscapedPath()
	}
	out.RawQuery, out.ForceQuery = in.RawQuery, in.ForceQuery
	r.Out.Trailer = r.In.Trailer // which is filled when the body has been read
	for _, name := range [...]string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := r.In.Header[name]; ok {
			r.Out.Header[name] = values
		}
	}
	if p.options.ForwardedHeaders {
		r.SetXForwarded()
	}
	r.Out.Host = r.In.Host
	if !p.options.PreserveHost {
		r.Out.Host = ""
	}
	if p.options.Compresses && len(r.Out.Header["Accept-Encoding"]) == 0 {
		r.Out.Header.Set("Accept-Encoding", "identity")
	}
}

// answered takes in the head of an answer.
func (p *Proxy) answered(r *http.Response) error {
	p.server.Answered()
	if p.down.Load() && p.down.Swap(false) {
		p.options.Log.Info("llama-server answers again")
	}
	x := exchangeOf(r.Request.Context())
	// Go's server would add what it thinks is missing.
	h := x.writer.Header()
	h["Date"], h["Content-Type"] = nil, nil
	x.head(r, p.options.MaxAnswer)
	p.options.Observer.Answering(x)
	return nil
}

// failed answers a request that got no answer.
func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r.Context())
	cause := context.Cause(r.Context())
	switch {
	case errors.Is(cause, errStopped):
		x.status, x.failure = http.StatusServiceUnavailable, Stopped
		refuse(w, x.status, "the proxy stops")
		return
	case r.Context().Err() != nil && !errors.Is(cause, errHeadTimeout), errors.Is(err, errClientBody) && errors.Is(err, io.ErrUnexpectedEOF):
		// The client has gone, perhaps only half: without a panic it would get a 200.
		panic(http.ErrAbortHandler)
	case isTooLarge(err):
		x.status, x.failure = http.StatusRequestEntityTooLarge, "413"
		refuse(w, x.status, "the request is larger than the proxy's max_request_body_size allows")
		return
	case errors.Is(err, errClientBody):
		x.status, x.failure = http.StatusBadRequest, "400"
		refuse(w, x.status, "the request's body is malformed or not complete")
		return
	}
	f := p.server.Explain(err)
	if errors.Is(err, errHeadTimeout) || errors.Is(cause, errHeadTimeout) {
		f = &netfailure.Failure{Class: netfailure.Timeout, Err: fmt.Errorf("%s: %w", p.options.Base.Host, errHeadTimeout), Cure: "llama-server hangs or is overloaded; raise upstream::timeout if it is only slow"}
	}
	x.status, x.failure = http.StatusBadGateway, f.Class
	if f.Class == netfailure.Timeout || f.Class == netfailure.ConnectTimeout {
		x.status = http.StatusGatewayTimeout
	}
	if !p.down.Swap(true) {
		told := zap.Error(f)
		if !ofNetwork(err) {
			told = zap.String("error", f.Class+": "+f.Cure)
		}
		p.options.Log.Warn("llama-server gives no answer: clients get an error in its place", zap.Int("status", x.status), told)
	}
	refuse(w, x.status, "no answer from llama-server: "+f.Error())
}

// ofNetwork reports whether an error is one of the network, of TLS or of time. The
// others of Go's client quote what they could not read, which may be text of an answer.
func ofNetwork(err error) bool {
	var op *net.OpError
	var untrusted *tls.CertificateVerificationError
	return errors.As(err, &op) || errors.As(err, &untrusted) || errors.Is(err, io.EOF) || errors.Is(err, errHeadTimeout)
}

func isTooLarge(err error) bool {
	var e *http.MaxBytesError
	return errors.As(err, &e)
}
