// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"strconv"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/requests"
	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
)

const (
	// maxInstances bounds the models of one router, against a log without the
	// lines that say which child serves which.
	maxInstances  = 256
	otherInstance = "other"
)

// source is the log of one server, which may be a router: all records of one
// resource.
type source struct {
	key           string           // in storage, and of span ids
	resource      pcommon.Resource // of the records
	parser        serverlog.Parser
	tracker       *requests.Tracker
	positions     positions
	instances     map[string]*instance // by model in router mode, else ""
	newStatistics func() *statistics   // of a new instance; nil where nothing is counted
	lastRead      time.Time
	written       time.Time // the latest time at which a record can have been written

	ended []*requests.Request // in the batch at hand

	inBatch         bool      // has records in the batch at hand
	records, events int       // to find out whether this is a llama-server's log
	strange         bool      // the warning that it is not was logged
	path            string    // of the file of the last record
	turns           int       // how often that file changed
	turned          time.Time // when it last changed
	mixed           bool      // the warning that several servers write here was logged
	url             string    // at which the server says that it listens
	compared        bool      // url was compared with what the server is named after
}

// instance is what has a service.instance.id: a server, or one model of a router.
type instance struct {
	model      string // that of a router's child
	path       string // of the model's file
	statistics *statistics

	identity identity                 // once it was needed
	builder  *metadata.MetricsBuilder // likewise
	known    serverresource.Memory    // what the receiver that asks the server has found out
}

func newSource(key string, newStatistics func() *statistics) *source {
	s := &source{
		key:           key,
		resource:      pcommon.NewResource(),
		instances:     map[string]*instance{},
		newStatistics: newStatistics,
	}
	s.tracker = requests.NewTracker(s, newStatistics == nil)
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
		// A receiver that polls reads a line long after it was written, but the
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
			at = observed // only the order of lines is known, by the times of reading
		case f != nil && f.ok:
			if last := f.written(e.Child, e.Clock); last.Before(at) {
				at = last
			}
		}
		s.tracker.Add(e, at, r.Timestamp() != 0)
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

// instance returns the instance that a process serves.
func (s *source) instance(p *requests.Process) *instance {
	model := ""
	if p.Child != 0 {
		model = p.Model
		if model == "" { // the line that says it was not read
			model = strconv.Itoa(p.Child)
		}
	}
	found := s.instances[model]
	if found == nil && len(s.instances) >= maxInstances {
		model = otherInstance
		found = s.instances[model]
	}
	if found == nil {
		found = &instance{model: model}
		if s.newStatistics != nil {
			found.statistics = s.newStatistics()
		}
		s.instances[model] = found
	}
	if p.Path != "" {
		found.path = p.Path
	}
	return found
}

var _ requests.Handler = (*source)(nil)

// Request implements requests.Handler. Requests wait for the end of the batch,
// since its last line places the clock of its first one best.
func (s *source) Request(r *requests.Request) { s.ended = append(s.ended, r) }

// Loaded implements requests.Handler.
func (s *source) Loaded(p *requests.Process, took time.Duration) {
	if st := s.instance(p).statistics; st != nil {
		st.Load, st.Loaded = took.Seconds(), true
	}
}

// Shifted implements requests.Handler.
func (s *source) Shifted(p *requests.Process) {
	if st := s.instance(p).statistics; st != nil {
		st.Shifts++
	}
}

// Logged implements requests.Handler.
func (s *source) Logged(p *requests.Process, severity serverlog.Severity, area string) {
	if st := s.instance(p).statistics; st != nil {
		st.logged(severity, area)
	}
}

// Listening implements requests.Handler.
func (s *source) Listening(p *requests.Process, url string) {
	if p.Child == 0 {
		s.url = url
	}
}
