// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	conventions "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/requests"
	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
)

const (
	// maxServers bounds the models of one router, against a log without the
	// lines that say which child serves which.
	maxServers  = 256
	otherServer = "other"
)

// source is the log of one server, which may be a router: all records of one
// resource.
type source struct {
	key       string           // in storage, and of span ids
	resource  pcommon.Resource // of the records
	parser    serverlog.Parser
	tracker   *requests.Tracker
	positions positions
	servers   map[string]*server // by model in router mode, else ""
	count     func() *statistics // of a new server; nil where nothing is counted
	lastRead  time.Time
	written   time.Time // the latest bound of when a record was

	// ended are the requests that ended in the batch at hand.
	ended []*requests.Request

	inBatch         bool      // has records in the batch at hand
	records, events int       // to find out whether this is a llama-server's log
	strange         bool      // it was told that it is not
	path            string    // of the file of the last record
	turns           int       // how often that was another one
	turned          time.Time // when it last was
	mixed           bool      // it was told that several servers write here
	url             string    // at which the server says that it listens
	compared        bool      // with what the server is called
}

// server is what has a resource of its own: a server, or a model of a router.
type server struct {
	model string // that of a router's child
	path  string // of the model's file
	stats *statistics

	key     serverresource.Key       // once it was needed
	builder *metadata.MetricsBuilder // likewise
}

func newSource(key string, resource pcommon.Resource, count func() *statistics) *source {
	s := &source{
		key:      key,
		resource: pcommon.NewResource(),
		tracker:  requests.NewTracker(count == nil),
		servers:  map[string]*server{},
		count:    count,
	}
	resource.CopyTo(s.resource)
	return s
}

// add takes in one record.
func (s *source) add(r plog.LogRecord, looked files, now time.Time) {
	text := body(r.Body())
	if text == "" {
		return
	}
	observed := now
	if t := r.ObservedTimestamp(); t != 0 {
		observed = t.AsTime()
	}
	written := observed
	if t := r.Timestamp(); t != 0 {
		written = t.AsTime()
	}
	var f *file
	if p, ok := r.Attributes().Get("log.file.path"); ok {
		if s.path != p.Str() {
			if now.Sub(s.turned) > turnTime {
				s.turns = 0
			}
			s.path, s.turned = p.Str(), now
			s.turns++
		}
		f = looked.get(s.path)
		if offset, ok := r.Attributes().Get("log.file.record_offset"); ok && s.positions.seen(f, s.path, offset.Int(), text) {
			return
		}
		// A source that polls reads a line long after it was written, but the
		// file says when it was last written to.
		if r.Timestamp() == 0 && f.ok && f.modified.Before(written) {
			written = f.modified
		}
	}
	if written.After(s.written) {
		s.written = written
	}
	s.records++
	s.parser.Parse(text, func(e *serverlog.Event) {
		s.events++
		at := written
		switch {
		case r.Timestamp() != 0:
		case !e.HasClock:
			at = observed // the order of lines is all there is, and it is that of reading
		case f != nil && f.ok:
			if last := f.written(e.Child, e.Clock); last.Before(at) {
				at = last
			}
		}
		s.tracker.Add(e, at, r.Timestamp() != 0, s)
	})
}

// body is the line as the server wrote it: journald's records and those of
// Docker's json-file, unless an operator has unwrapped them, hold it in a field.
func body(v pcommon.Value) string {
	switch v.Type() {
	case pcommon.ValueTypeStr:
		return v.Str()
	case pcommon.ValueTypeBytes:
		return string(v.Bytes().AsRaw())
	case pcommon.ValueTypeMap:
		for _, key := range []string{"MESSAGE", "log", "message"} {
			if field, ok := v.Map().Get(key); ok && field.Type() == pcommon.ValueTypeStr {
				return field.Str()
			}
		}
	}
	return ""
}

// server of a process.
func (s *source) server(p *requests.Process) *server {
	name := ""
	if p.Child != 0 {
		name = p.Model
		if name == "" { // the line that says it was not read
			name = strconv.Itoa(p.Child)
		}
	}
	found := s.servers[name]
	if found == nil && len(s.servers) >= maxServers {
		name = otherServer
		found = s.servers[name]
	}
	if found == nil {
		found = &server{model: name}
		if s.count != nil {
			found.stats = s.count()
		}
		s.servers[name] = found
	}
	if p.Path != "" {
		found.path = p.Path
	}
	return found
}

// modelName is the name of the model that a server serves, or "". A receiver
// that asks the server knows its alias.
func (f *follower) modelName(s *source, of *server) string {
	if of.model != "" {
		return of.model
	}
	if f.cfg.Model != "" {
		return f.cfg.Model
	}
	if r, ok := serverresource.Of(f.key(s, of)); ok {
		if v, ok := r.Attributes().Get(attributeModel); ok {
			return v.Str()
		}
	}
	if of.path != "" {
		return path.Base(strings.ReplaceAll(of.path, `\`, "/"))
	}
	return ""
}

// resource of a server: who it is, as the receiver says it, and what the log's
// resource says besides.
func (f *follower) resource(s *source, of *server) pcommon.Resource {
	service, address, port, instance := f.identify(s, of)
	rb := metadata.NewResourceBuilder(f.cfg.ResourceAttributes)
	rb.SetServiceName(service)
	if address != "" {
		rb.SetServerAddress(address)
		rb.SetServerPort(port)
	}
	rb.SetServiceInstanceID(instance)
	if name := f.modelName(s, of); name != "" {
		rb.SetLlamacppModelName(name)
	}
	res := rb.Emit()
	add := func(from pcommon.Resource) {
		for k, v := range from.Attributes().All() {
			if _, ok := res.Attributes().Get(k); !ok && !slices.Contains(ours, k) {
				v.CopyTo(res.Attributes().PutEmpty(k))
			}
		}
	}
	if known, ok := serverresource.Of(f.key(s, of)); ok {
		add(known)
	}
	add(s.resource)
	return res
}

// attributeModel is the resource attribute of the model's name, and ours are
// those that metadata.yaml declares, which the configuration may switch off.
const attributeModel = "llamacpp.model.name"

var ours = []string{
	attributeModel, string(conventions.ServerAddressKey), string(conventions.ServerPortKey),
	string(conventions.ServiceInstanceIDKey), string(conventions.ServiceNameKey),
}

// identify says who a server is: what the log's resource says goes before what
// is configured. The address may be unknown, "".
func (f *follower) identify(s *source, of *server) (service, address string, port int64, instance string) {
	service, address, port, instance = f.cfg.ServiceName, f.server.address, f.server.port, f.server.instance
	if v, ok := s.resource.Attributes().Get(string(conventions.ServiceNameKey)); ok {
		service = v.AsString()
	}
	a, hasAddress := s.resource.Attributes().Get(string(conventions.ServerAddressKey))
	p, hasPort := s.resource.Attributes().Get(string(conventions.ServerPortKey))
	if hasAddress {
		address = a.AsString()
	}
	if hasPort {
		if n, err := strconv.ParseInt(p.AsString(), 10, 64); err == nil {
			port = n
		}
	}
	if hasAddress || hasPort {
		instance = net.JoinHostPort(address, strconv.FormatInt(port, 10))
	}
	if v, ok := s.resource.Attributes().Get(string(conventions.ServiceInstanceIDKey)); ok {
		instance = v.AsString()
		if !hasAddress { // the configured one is that of another server
			address = ""
		}
	}
	if of.model != "" {
		instance += "/" + of.model
	}
	return service, address, port, instance
}

// key names the server.
func (f *follower) key(s *source, of *server) serverresource.Key {
	if of.key == (serverresource.Key{}) {
		of.key.Service, _, _, of.key.Instance = f.identify(s, of)
	}
	return of.key
}

var _ requests.Handler = (*source)(nil)

// Request implements requests.Handler. Requests wait for the end of the batch,
// since its last line places the clock of its first one best.
func (s *source) Request(r *requests.Request) { s.ended = append(s.ended, r) }

// Loaded implements requests.Handler.
func (s *source) Loaded(p *requests.Process, took time.Duration) {
	if st := s.server(p).stats; st != nil {
		st.Load, st.Loaded = took.Seconds(), true
	}
}

// Shifted implements requests.Handler.
func (s *source) Shifted(p *requests.Process) {
	if st := s.server(p).stats; st != nil {
		st.Shifts++
	}
}

// Logged implements requests.Handler.
func (s *source) Logged(p *requests.Process, severity serverlog.Severity, area string) {
	if st := s.server(p).stats; st != nil {
		st.logged(severity, area)
	}
}

// Listening implements requests.Handler.
func (s *source) Listening(p *requests.Process, url string) {
	if p.Child == 0 {
		s.url = url
	}
}
