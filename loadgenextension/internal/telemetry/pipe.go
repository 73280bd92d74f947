// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package telemetry measures the requests of a run with the OpenTelemetry SDK,
// as any instrumented client does, and passes the output of its OTLP exporters to
// consumers in the same process.
package telemetry // import "github.com/llamatelemetry/otelcol-llamacpp/loadgenextension/internal/telemetry"

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
)

// Pipe connects the SDK's OTLP exporters to consumers, without a network. Data for
// which no consumer is attached is dropped.
type Pipe struct {
	mu      sync.Mutex
	metrics []*metricsConsumer
	traces  []*consumer.Traces
}

// metricsConsumer is a consumer with the kind of histograms that it gets.
type metricsConsumer struct {
	consumer.Metrics
	buckets Buckets
}

// Buckets is a kind of histogram: the maximum number of buckets of an exponential
// one, or Explicit.
type Buckets int32

// Explicit is a histogram with the fixed bounds of its instrument.
const Explicit Buckets = 0

const (
	metricsPath = "/v1/metrics"
	tracesPath  = "/v1/traces"
	base        = "http://in-process.invalid"
)

// AttachMetrics sends metrics to c, with histograms of the given kind, until detach
// is called. A run makes the kinds that are wanted when it begins: a consumer of
// another kind gets nothing of it.
func (p *Pipe) AttachMetrics(c consumer.Metrics, b Buckets) (detach func()) {
	return attach(&p.mu, &p.metrics, metricsConsumer{c, b})
}

// AttachTraces sends traces to c until detach is called.
func (p *Pipe) AttachTraces(c consumer.Traces) (detach func()) {
	return attach(&p.mu, &p.traces, c)
}

func attach[C any](mu *sync.Mutex, list *[]*C, c C) (detach func()) {
	mu.Lock()
	defer mu.Unlock()
	one := &c
	*list = append(slices.Clip(*list), one)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		*list = slices.DeleteFunc(slices.Clone(*list), func(c *C) bool { return c == one })
	}
}

// kinds returns the kinds of histograms that consumers want, each once; other if
// there is no consumer yet.
func (p *Pipe) kinds(other Buckets) []Buckets {
	p.mu.Lock()
	defer p.mu.Unlock()
	var kinds []Buckets
	for _, c := range p.metrics {
		if !slices.Contains(kinds, c.buckets) {
			kinds = append(kinds, c.buckets)
		}
	}
	if len(kinds) == 0 {
		kinds = []Buckets{other}
	}
	return kinds
}

// wantsTraces reports whether a consumer of traces is attached.
func (p *Pipe) wantsTraces() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.traces) > 0
}

// end is where an exporter puts its data in: metrics with histograms of one kind, or
// traces.
type end struct {
	pipe    *Pipe
	buckets Buckets
}

// RoundTrip implements http.RoundTripper.
func (e end) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := read(r)
	if err != nil {
		return nil, err
	}
	var answer []byte
	switch r.URL.Path {
	case metricsPath:
		request := pmetricotlp.NewExportRequest()
		if err = request.UnmarshalProto(body); err == nil {
			err = e.pipe.consumeMetrics(r.Context(), request.Metrics(), e.buckets)
		}
		answer, _ = pmetricotlp.NewExportResponse().MarshalProto() // an empty one cannot fail
	case tracesPath:
		request := ptraceotlp.NewExportRequest()
		if err = request.UnmarshalProto(body); err == nil {
			err = e.pipe.consumeTraces(r.Context(), request.Traces())
		}
		answer, _ = ptraceotlp.NewExportResponse().MarshalProto()
	default:
		err = fmt.Errorf("path %s: neither metrics nor traces", r.URL.Path)
	}
	return response(r, answer, err), nil
}

func read(r *http.Request) (body []byte, err error) {
	defer r.Body.Close()
	in := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		if in, err = gzip.NewReader(in); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(in)
}

// response returns the answer to the exporter, which retries after a 503 but not
// after a 400.
func response(r *http.Request, answer []byte, err error) *http.Response {
	status := http.StatusOK
	switch {
	case consumererror.IsPermanent(err):
		status = http.StatusBadRequest
	case err != nil:
		status = http.StatusServiceUnavailable
	}
	if err != nil {
		answer = nil // the SDK would read it as a partial success
	}
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/x-protobuf"}}, Request: r,
		Body: io.NopCloser(bytes.NewReader(answer)), ContentLength: int64(len(answer)),
	}
}

func (p *Pipe) consumeMetrics(ctx context.Context, md pmetric.Metrics, b Buckets) error {
	p.mu.Lock()
	to := slices.DeleteFunc(slices.Clone(p.metrics), func(c *metricsConsumer) bool { return c.buckets != b })
	p.mu.Unlock()
	var errs []error
	for i, c := range to {
		given := md
		if i < len(to)-1 { // a consumer may change what it is given
			given = pmetric.NewMetrics()
			md.CopyTo(given)
		}
		errs = append(errs, c.ConsumeMetrics(ctx, given))
	}
	return errors.Join(errs...)
}

func (p *Pipe) consumeTraces(ctx context.Context, td ptrace.Traces) error {
	p.mu.Lock()
	to := p.traces
	p.mu.Unlock()
	var errs []error
	for i, c := range to {
		given := td
		if i < len(to)-1 {
			given = ptrace.NewTraces()
			td.CopyTo(given)
		}
		errs = append(errs, (*c).ConsumeTraces(ctx, given))
	}
	return errors.Join(errs...)
}
