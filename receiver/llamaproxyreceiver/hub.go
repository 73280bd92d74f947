// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaproxyreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver"

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/confighttp/xconfighttp"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/proxied"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/timings"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/proxy"
)

// maxAnswer is the largest event, and the largest answer that is not streamed, that is
// read to be measured.
const maxAnswer = 16 << 20

// hub is a proxy and the outputs of its measurements.
type hub struct {
	cfg   *Config
	log   *zap.Logger
	where endpoint.Endpoint // of the server
	// resources are those of the server and, of a router, of its models.
	resources serverresource.Memory
	clients   *clients
	proxy     *proxy.Proxy
	server    *http.Server
	address   net.Addr // at which it listens
	serving   sync.WaitGroup
	drain     func() error // runs end once
	client    *http.Client // of the server

	outputs atomic.Pointer[[]output]
	// active are the completions under way, by metadata's phase.
	waiting, answering atomic.Int64
	dropped            atomic.Int64 // spans
	metrics, traces    atomic.Bool  // there is an output of them

	receivers int // that use it
}

// hubs are those that run, by the endpoint at which they listen.
var (
	hubsMu sync.Mutex
	hubs   = map[string]*hub{}
)

// join returns the proxy at the endpoint of a receiver, which it starts if none runs
// yet.
func join(ctx context.Context, r *proxyReceiver, host component.Host) (*hub, error) {
	hubsMu.Lock()
	defer hubsMu.Unlock()
	at := r.cfg.ServerConfig.NetAddr.Endpoint
	h, ok := hubs[at]
	if !ok {
		h = &hub{cfg: r.cfg, log: r.set.Logger, clients: newClients(r.cfg.Clients.Get())}
		if err := h.start(ctx, r, host); err != nil {
			return nil, err
		}
		hubs[at] = h
	} else if !h.cfg.sameProxy(r.cfg) {
		return nil, fmt.Errorf("endpoint: another receiver of type llamaproxy listens at %s, with other settings: give them the same settings, to have one proxy with two outputs, or each an endpoint of its own", at)
	}
	h.receivers++
	return h, nil
}

// leave ends a receiver's use of the proxy, which is drained.
func (h *hub) leave() {
	hubsMu.Lock()
	defer hubsMu.Unlock()
	if h.receivers--; h.receivers == 0 {
		delete(hubs, h.cfg.ServerConfig.NetAddr.Endpoint)
	}
}

func (h *hub) attach(o output) {
	hubsMu.Lock()
	defer hubsMu.Unlock()
	all := []output{o}
	if before := h.outputs.Load(); before != nil {
		all = append(all, *before...)
	}
	h.outputs.Store(&all)
}

func (h *hub) start(ctx context.Context, r *proxyReceiver, host component.Host) error {
	where, err := endpoint.Parse(h.cfg.Upstream.Endpoint)
	if err != nil {
		return fmt.Errorf("upstream::endpoint: %w", err)
	}
	h.where = where
	// Without the Collector's own instrumentation, which would write into requests.
	set := r.set.TelemetrySettings
	set.TracerProvider, set.MeterProvider = nil, nil
	client, err := h.cfg.Upstream.ToClient(ctx, host.GetExtensions(), set)
	if err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	h.client = client
	own, bare := client.Transport.(*http.Transport) // no auth and no headers of ours around it
	if bare {
		own.DisableCompression = true
	}
	h.proxy = proxy.New(proxy.Options{
		Base: where.URL, Transport: client.Transport, Compresses: !bare, HeadTimeout: h.cfg.Upstream.Timeout, ForwardProxy: h.behindProxy(),
		PreserveHost: h.cfg.PreserveHost, ForwardedHeaders: h.cfg.ForwardedHeaders, MaxAnswer: maxAnswer, Log: h.log, Observer: h,
	})
	h.server, err = h.cfg.ServerConfig.ToServer(ctx, host.GetExtensions(), r.set.TelemetrySettings, h.proxy, uninstrumented)
	if err != nil {
		return err
	}
	h.server.DisableGeneralOptionsHandler = true // the upstream answers OPTIONS *
	listener, err := h.cfg.ServerConfig.ToListener(ctx)
	if err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	h.address = listener.Addr()
	h.drain = sync.OnceValue(h.end)
	h.serving.Go(func() {
		if err := h.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(err))
		}
	})
	h.log.Info("Passing requests on", zap.Stringer("endpoint", h.address), zap.String("upstream", where.Instance))
	return nil
}

// uninstrumented leaves the Collector's own instrumentation out. The proxy has its own,
// and this one would double the stack of each stream.
var uninstrumented = xconfighttp.WithOtelHTTPOptions(otelhttp.WithFilter(func(*http.Request) bool { return false }))

// behindProxy reports whether requests to the server go through an HTTP proxy.
func (h *hub) behindProxy() bool {
	if h.cfg.Upstream.ProxyURL != "" {
		return true
	}
	u, err := http.ProxyFromEnvironment(&http.Request{URL: h.where.URL})
	return u != nil || err != nil
}

// end lets what is under way come to its end, within the configured time, and refuses
// what is new.
func (h *hub) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), h.cfg.DrainTimeout)
	defer cancel()
	if n := h.waiting.Load() + h.answering.Load(); n > 0 {
		h.log.Info("Waiting for requests under way", zap.Int64("requests", n), zap.Duration("drain_timeout", h.cfg.DrainTimeout))
	}
	err := h.server.Shutdown(ctx)
	if !h.proxy.Wait(ctx) { // those of WebSockets, which the server does not know any more
		if n := h.waiting.Load() + h.answering.Load(); n > 0 {
			h.log.Warn("Requests are cut off: they have taken longer than drain_timeout", zap.Int64("requests", n))
		}
	}
	h.proxy.Stop()
	if err != nil {
		err = h.server.Close()
	}
	h.serving.Wait()
	h.client.CloseIdleConnections()
	return err
}

// measured is a request with what the hub adds.
type measured struct {
	*proxy.Exchange
	// client is whose request it is; "" where clients are not told apart.
	client string
	// instance is the service.instance.id of the server, or of a router's model.
	instance string
	// model is the model's name; "" if it is not known.
	model string
	// parent is the span of the client, if it has sent one. sampled is false if the
	// client says that its trace is not recorded.
	parent  trace.SpanContext
	sampled bool
	trace   pcommon.TraceID
	span    pcommon.SpanID
	open    *proxied.Open // by which the log's connector finds it

	answering bool
}

var _ proxy.Observer = (*hub)(nil)

// Arrived implements proxy.Observer.
func (h *hub) Arrived(x *proxy.Exchange) {
	if !x.Completion {
		return
	}
	m := &measured{Exchange: x, client: h.clients.name(x.Header), sampled: true}
	x.Measurement = m
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(x.Header))
	if m.parent = trace.SpanContextFromContext(ctx); m.parent.IsValid() {
		m.trace, m.sampled = pcommon.TraceID(m.parent.TraceID()), m.parent.IsSampled()
	} else {
		_, _ = rand.Read(m.trace[:]) // never fails
	}
	_, _ = rand.Read(m.span[:])
	m.open = proxied.Begin(h.key(h.where.Instance), x.Arrived)
	h.waiting.Add(1)
}

// Answering implements proxy.Observer.
func (h *hub) Answering(x *proxy.Exchange) {
	if m, ok := x.Measurement.(*measured); ok {
		m.answering = true
		h.waiting.Add(-1)
		h.answering.Add(1)
	}
}

// Ended implements proxy.Observer.
func (h *hub) Ended(x *proxy.Exchange) {
	m, ok := x.Measurement.(*measured)
	switch {
	case !ok:
		m = &measured{Exchange: x}
	case m.answering:
		h.answering.Add(-1)
	default:
		h.waiting.Add(-1)
	}
	m.instance, m.model = h.serverOf(m)
	if ok {
		h.tellLog(m)
	}
	if all := h.outputs.Load(); all != nil {
		for _, o := range *all {
			o.ended(m)
		}
	}
}

// tellLog lets the connector that reads the server's log find the request there. A
// request that was refused, or got no answer, has most likely had no slot.
func (h *hub) tellLog(m *measured) {
	r := proxied.Request{
		Arrived: m.Arrived, Ended: m.Result.End, InputTokens: m.Result.InputTokens, OutputTokens: m.Result.OutputTokens,
		FirstToken: m.Result.FirstToken, Completed: m.Outcome == proxy.Completed, Counted: h.metrics.Load(),
	}
	if t := m.Result.Timings; t != nil {
		r.Timings = timings.String(t.PromptTokens, t.Prompt, t.PredictedTokens, t.Predicted)
	}
	if h.traces.Load() && m.sampled {
		r.Trace, r.Span = m.trace, m.span
	}
	m.open.Move(h.key(m.instance))
	m.open.End(r, m.Outcome == proxy.Completed || m.Outcome == proxy.Cancelled || m.Status == http.StatusOK)
	m.open = nil
}

// now is when points are of.
func now() pcommon.Timestamp { return pcommon.NewTimestampFromTime(time.Now()) }

// operation is the value of gen_ai.operation.name.
func operation(e completion.Endpoint) string {
	switch e {
	case completion.Completions, completion.Native:
		return "text_completion"
	case completion.Embeddings:
		return "embeddings"
	}
	return "chat"
}

// key is how the components of this process call an instance.
func (h *hub) key(instance string) serverresource.Key {
	return serverresource.Key{Service: h.cfg.ServiceName, Instance: instance}
}
