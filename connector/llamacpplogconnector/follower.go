// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
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
	// manyFiles is how often records of a source come from another file than
	// those before, each time within turnTime, until it is told: rotations are
	// rarer.
	manyFiles = 50
	turnTime  = time.Minute
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

	mu       sync.Mutex
	sources  map[string]*source // by resource
	changed  map[string]*source // since they were stored
	gone     map[string]bool    // to be deleted from storage
	unlisted bool               // storage lists other sources
	unstored bool               // storing has failed and was told
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
		gone:    map[string]bool{},
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
	if err := f.restore(ctx); err != nil {
		f.storage = nil
		return errors.Join(err, client.Close(ctx))
	}
	return nil
}

// Shutdown implements component.Component.
func (f *follower) Shutdown(ctx context.Context) error {
	if f.storage == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.store(ctx)
	err := f.storage.Close(ctx)
	f.storage = nil
	return err
}

// read takes in logs and calls each for the sources that had some, whose
// requests that ended then are in source.ended. The caller holds mu.
func (f *follower) read(ld plog.Logs, now time.Time, each func(*source)) {
	looked := files{}
	var had []*source
	for _, rl := range ld.ResourceLogs().All() {
		h := pdatautil.MapHash(rl.Resource().Attributes())
		key := hex.EncodeToString(h[:])
		for _, sl := range rl.ScopeLogs().All() {
			for _, r := range sl.LogRecords().All() {
				of := key
				if u := unit(r.Body()); u != "" {
					of += u
				}
				s := f.source(of, rl.Resource(), now)
				s.add(r, looked, now)
				if !s.inBatch {
					s.inBatch = true
					f.changed[s.key] = s
					had = append(had, s)
				}
			}
		}
	}
	for _, s := range had {
		f.question(s)
		s.tracker.Settle(s.written, s)
		for _, p := range s.tracker.Processes {
			s.server(p) // also one that has nothing to count yet
		}
		each(s)
		clear(s.ended)
		s.ended, s.inBatch = s.ended[:0], false
	}
}

// unit of a record of a journal, in which those of all units have one resource.
func unit(body pcommon.Value) string {
	if body.Type() == pcommon.ValueTypeMap {
		if u, ok := body.Map().Get("_SYSTEMD_UNIT"); ok {
			return u.AsString()
		}
	}
	return ""
}

// source has one server's records in the order in which they were written: a
// resource, and in a journal a unit.
func (f *follower) source(key string, resource pcommon.Resource, now time.Time) *source {
	s := f.sources[key]
	if s == nil {
		if len(f.sources) >= maxSources {
			f.forgetOldest()
		}
		s = newSource(key, resource, f.count)
		f.sources[key] = s
		f.unlisted = true
		delete(f.gone, key)
	}
	s.lastRead = now
	return s
}

// question says once what seems to be wrong with a source.
func (f *follower) question(s *source) {
	if !s.strange && s.events == 0 && s.records >= strangeRecords {
		s.strange = true
		f.log.Warn("no line of these logs is one of llama-server's: check which receiver is connected, and that its operators leave the line as it is",
			zap.Int("records", s.records), zap.Any("resource", s.resource.Attributes().AsRaw()))
	}
	if s.turns >= manyFiles && !s.mixed {
		s.mixed = true
		f.log.Warn("lines come from several files in turn, but are followed as the log of one server: give each server's lines a resource of their own, e.g. with service.instance.id",
			zap.String("file", s.path), zap.Any("resource", s.resource.Attributes().AsRaw()))
	}
	if s.url != "" && !s.compared {
		s.compared = true
		f.compare(s)
	}
}

// compare notes that the log seems to be that of another server.
func (f *follower) compare(s *source) {
	e, err := endpoint.Parse(s.url)
	_, address, port, instance := f.identify(s, &server{})
	if err != nil || address == "" || e.Port == port {
		return
	}
	f.log.Info("the log is of a server that listens on another port than the one it is called after: they are the same server only if the port is mapped",
		zap.String("log", s.url), zap.String("called", instance))
}

func (f *follower) forgetOldest() {
	oldest := ""
	for key, s := range f.sources {
		if oldest == "" || s.lastRead.Before(f.sources[oldest].lastRead) {
			oldest = key
		}
	}
	f.forget(oldest)
}

// expire forgets the sources that have been silent for too long.
func (f *follower) expire(now time.Time) {
	if f.cfg.MetricsExpiration == 0 {
		return
	}
	for key, s := range f.sources {
		if now.Sub(s.lastRead) > f.cfg.MetricsExpiration {
			f.forget(key)
		}
	}
}

func (f *follower) forget(key string) {
	delete(f.sources, key)
	delete(f.changed, key)
	if f.storage != nil {
		f.gone[key] = true
		f.unlisted = true
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
	LastRead   time.Time               `json:"last_read"`
}

type storedServer struct {
	Path       string          `json:"path,omitempty"`
	Statistics json.RawMessage `json:"statistics,omitempty"`
}

// store writes what changed, before the source of the logs can note that it
// has handed them on. Where that fails nothing is lost as long as the collector
// runs, which is no reason to refuse logs.
func (f *follower) store(ctx context.Context) {
	if f.storage == nil || len(f.changed)+len(f.gone) == 0 {
		return
	}
	err := f.write(ctx)
	if err != nil && !f.unstored {
		f.log.Error("counts cannot be stored, and begin anew if the collector ends before they can", zap.Error(err))
	}
	f.unstored = err != nil
}

func (f *follower) write(ctx context.Context) error {
	ops := make([]*storage.Operation, 0, len(f.gone)+len(f.changed)+1)
	for key := range f.gone {
		ops = append(ops, storage.DeleteOperation(keyPrefix+key))
	}
	for key, s := range f.changed {
		b, err := s.marshal()
		if err != nil {
			return err
		}
		ops = append(ops, storage.SetOperation(keyPrefix+key, b))
	}
	if f.unlisted {
		b, err := json.Marshal(slices.Sorted(maps.Keys(f.sources)))
		if err != nil {
			return err
		}
		ops = append(ops, storage.SetOperation(listKey, b))
	}
	if err := f.storage.Batch(ctx, ops...); err != nil {
		return err
	}
	clear(f.changed)
	clear(f.gone)
	f.unlisted = false
	return nil
}

func (s *source) marshal() ([]byte, error) {
	out := storedSource{
		Attributes: s.resource.Attributes().AsRaw(), Tracker: s.tracker, Positions: s.positions,
		Servers: map[string]storedServer{}, LastRead: s.lastRead,
	}
	for name, server := range s.servers {
		st := storedServer{Path: server.path}
		if server.stats != nil {
			b, err := json.Marshal(server.stats)
			if err != nil {
				return nil, err
			}
			st.Statistics = b
		}
		out.Servers[name] = st
	}
	return json.Marshal(out)
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
		s, err := f.restoreSource(key, b)
		if err != nil {
			f.log.Warn("what was stored of a server cannot be used; its counts begin anew", zap.Error(err))
			f.forget(key)
			continue
		}
		f.sources[key] = s
	}
	return nil
}

func (f *follower) restoreSource(key string, b []byte) (*source, error) {
	in := storedSource{Tracker: &requests.Tracker{KeepProgress: f.count == nil}}
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, err
	}
	if in.Tracker == nil {
		return nil, errors.New("no tracker")
	}
	resource := pcommon.NewResource()
	for k, v := range in.Attributes { // JSON has no integers
		if n, ok := v.(float64); ok && n == math.Trunc(n) {
			in.Attributes[k] = int64(n)
		}
	}
	if err := resource.Attributes().FromRaw(in.Attributes); err != nil {
		return nil, err
	}
	s := newSource(key, resource, f.count)
	s.tracker, s.positions, s.lastRead = in.Tracker, in.Positions, in.LastRead
	for name, stored := range in.Servers {
		of := &server{model: name, path: stored.Path}
		if f.count != nil {
			of.stats = f.count()
			if err := of.stats.restore(stored.Statistics); err != nil {
				// Which requests were counted still holds.
				f.log.Warn("the counts stored of a server cannot be used and begin anew", zap.String("server", f.key(s, of).Instance), zap.Error(err))
				of.stats = f.count()
			}
		}
		s.servers[name] = of
	}
	return s, nil
}
