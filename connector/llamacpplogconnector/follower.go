// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatautil"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/requests"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
)

const (
	// maxSources bounds the servers that are remembered.
	maxSources = 1000
	// strangeRecords is after how many records without one line of a
	// llama-server a source is called into question.
	strangeRecords = 100
)

// identity names the server of the configured endpoint.
type identity struct {
	address, instance string
	port              int64
}

// follower reads logs and remembers each server's. The connectors to metrics
// and to traces each have one: the collector makes them apart, and hands each
// all logs.
type follower struct {
	cfg     *Config
	id      component.ID
	log     *zap.Logger
	signal  string // the name of its storage
	server  identity
	count   func() *statistics // see source
	storage storage.Client     // nil without one

	mu      sync.Mutex
	sources map[string]*source // by resource
	changed map[string]*source // since they were stored
	known   int                // sources that storage lists
}

func newFollower(cfg *Config, set connector.Settings, signal string, count func() *statistics) (*follower, error) {
	e, err := endpoint.Parse(cfg.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	return &follower{
		cfg: cfg, id: set.ID, log: set.Logger, signal: signal, count: count,
		server:  identity{address: e.Address, port: e.Port, instance: e.Instance},
		sources: map[string]*source{},
		changed: map[string]*source{},
	}, nil
}

// Capabilities implements consumer.Logs.
func (*follower) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

// Start implements component.Component: it goes on where it was stopped.
func (f *follower) Start(ctx context.Context, host component.Host) error {
	if f.cfg.StorageID == nil {
		return nil
	}
	ext, ok := host.GetExtensions()[*f.cfg.StorageID]
	if !ok {
		return fmt.Errorf("storage: there is no extension %q: name one under service::extensions", f.cfg.StorageID)
	}
	provider, ok := ext.(storage.Extension)
	if !ok {
		return fmt.Errorf("storage: %q stores nothing: name a storage extension, e.g. file_storage", f.cfg.StorageID)
	}
	client, err := provider.GetClient(ctx, component.KindConnector, f.id, f.signal)
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	f.storage = client
	return f.restore(ctx)
}

// Shutdown implements component.Component.
func (f *follower) Shutdown(ctx context.Context) error {
	if f.storage == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	err := errors.Join(f.store(ctx), f.storage.Close(ctx))
	f.storage = nil
	return err
}

// read takes in logs and calls each for the sources that had some, whose
// requests that ended then are in source.ended. The caller holds mu.
func (f *follower) read(ld plog.Logs, each func(*source)) {
	looked := files{}
	var had []*source
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, r := range sl.LogRecords().All() {
				key, s := f.source(rl.Resource().Attributes(), r)
				s.add(r, looked)
				if !s.inBatch {
					s.inBatch = true
					f.changed[key] = s
					had = append(had, s)
				}
			}
		}
	}
	for _, s := range had {
		f.question(s)
		s.tracker.Settle(s.lastRecord, s)
		each(s)
		clear(s.ended)
		s.ended, s.inBatch = s.ended[:0], false
	}
}

// source of a record, which has one server's records in the order in which
// they were written: a resource, and in a journal a unit.
func (f *follower) source(resource pcommon.Map, r plog.LogRecord) (string, *source) {
	h := pdatautil.MapHash(resource)
	key := hex.EncodeToString(h[:])
	if r.Body().Type() == pcommon.ValueTypeMap {
		if unit, ok := r.Body().Map().Get("_SYSTEMD_UNIT"); ok {
			key += unit.AsString()
		}
	}
	s := f.sources[key]
	if s == nil {
		if len(f.sources) >= maxSources {
			f.forgetOldest()
		}
		s = newSource(resource, f.count)
		s.listens = f.compare
		f.sources[key] = s
	}
	return key, s
}

// question says once that a source seems to be something else.
func (f *follower) question(s *source) {
	if s.told || s.events > 0 || s.records < strangeRecords {
		return
	}
	s.told = true
	f.log.Warn("no line of these logs is one of llama-server's: check which receiver is connected, and that its operators leave the line as it is",
		zap.Int("records", s.records), zap.Any("resource", s.attributes.AsRaw()))
}

// compare notes once that the log seems to be that of another server.
func (f *follower) compare(url string) {
	e, err := endpoint.Parse(url)
	if err != nil || e.Port == f.server.port {
		return
	}
	f.log.Info("the log is of a server that listens on another port than that of endpoint: they are the same server only if the port is mapped",
		zap.String("log", url), zap.String("endpoint", f.server.instance))
}

func (f *follower) forgetOldest() {
	oldest := ""
	for key, s := range f.sources {
		if oldest == "" || s.lastRecord.Before(f.sources[oldest].lastRecord) {
			oldest = key
		}
	}
	delete(f.sources, oldest)
	delete(f.changed, oldest)
}

// expire forgets the sources that have been silent for too long.
func (f *follower) expire(now time.Time) {
	if f.cfg.MetricsExpiration == 0 {
		return
	}
	for key, s := range f.sources {
		if now.Sub(s.lastRecord) > f.cfg.MetricsExpiration {
			delete(f.sources, key)
			delete(f.changed, key)
		}
	}
}

const (
	listKey   = "sources"
	keyPrefix = "source/"
)

// storedSource is the form in which a source outlives the collector.
type storedSource struct {
	Attributes map[string]any          `json:"attributes"`
	Tracker    *requests.Tracker       `json:"tracker"`
	Positions  positions               `json:"positions"`
	Servers    map[string]storedServer `json:"servers"`
	LastRecord time.Time               `json:"last_record"`
}

type storedServer struct {
	Path       string          `json:"path,omitempty"`
	Statistics json.RawMessage `json:"statistics,omitempty"`
}

// store writes what changed, before the source of the logs can note that it
// has handed them on.
func (f *follower) store(ctx context.Context) error {
	if f.storage == nil || len(f.changed) == 0 {
		return nil
	}
	var ops []*storage.Operation
	for key, s := range f.changed {
		out := storedSource{
			Attributes: s.attributes.AsRaw(), Tracker: s.tracker, Positions: s.positions,
			Servers: map[string]storedServer{}, LastRecord: s.lastRecord,
		}
		for name, server := range s.servers {
			st := storedServer{Path: server.path}
			if server.stats != nil {
				b, err := json.Marshal(server.stats)
				if err != nil {
					return err
				}
				st.Statistics = b
			}
			out.Servers[name] = st
		}
		b, err := json.Marshal(out)
		if err != nil {
			return err
		}
		ops = append(ops, storage.SetOperation(keyPrefix+key, b))
	}
	if f.known != len(f.sources) {
		list := make([]string, 0, len(f.sources))
		for key := range f.sources {
			list = append(list, key)
		}
		b, err := json.Marshal(list)
		if err != nil {
			return err
		}
		ops = append(ops, storage.SetOperation(listKey, b))
		f.known = len(list)
	}
	if err := f.storage.Batch(ctx, ops...); err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	clear(f.changed)
	return nil
}

func (f *follower) restore(ctx context.Context) error {
	b, err := f.storage.Get(ctx, listKey)
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	if b == nil {
		return nil
	}
	var list []string
	if err := json.Unmarshal(b, &list); err != nil {
		f.log.Warn("what was stored cannot be read; counting begins anew", zap.Error(err))
		return nil
	}
	for _, key := range list {
		b, err := f.storage.Get(ctx, keyPrefix+key)
		if err != nil {
			return fmt.Errorf("storage: %w", err)
		}
		if b == nil {
			continue
		}
		s, err := f.restoreSource(b)
		if err != nil {
			f.log.Warn("what was stored of a server cannot be used; its counts begin anew", zap.Error(err))
			continue
		}
		f.sources[key] = s
	}
	f.known = len(f.sources)
	return nil
}

func (f *follower) restoreSource(b []byte) (*source, error) {
	in := storedSource{Tracker: &requests.Tracker{KeepProgress: f.count == nil}}
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, err
	}
	if in.Tracker == nil {
		return nil, errors.New("no tracker")
	}
	attributes := pcommon.NewMap()
	for k, v := range in.Attributes { // JSON has no integers
		if n, ok := v.(float64); ok && n == math.Trunc(n) {
			in.Attributes[k] = int64(n)
		}
	}
	if err := attributes.FromRaw(in.Attributes); err != nil {
		return nil, err
	}
	s := newSource(attributes, f.count)
	s.tracker, s.positions, s.lastRecord, s.listens = in.Tracker, in.Positions, in.LastRecord, f.compare
	for name, stored := range in.Servers {
		of := &server{model: strings.Clone(name), path: stored.Path}
		if f.count != nil {
			of.stats = f.count()
			if err := of.stats.restore(stored.Statistics); err != nil {
				return nil, err
			}
		}
		s.servers[name] = of
	}
	return s, nil
}
