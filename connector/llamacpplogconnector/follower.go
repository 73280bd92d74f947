// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"context"
	"encoding/hex"
	"fmt"
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

	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/proxied"
)

const (
	// maxSources bounds the servers that are remembered.
	maxSources = 1000
	// strangeRecords is the number of records without any line of a llama-server
	// after which a warning is logged.
	strangeRecords = 100
	// manyFiles is how often a source's records may change from one file to
	// another, each time within turnTime of the last, before a warning is
	// logged: rotations are rarer.
	manyFiles = 50
	turnTime  = time.Minute
)

// follower reads logs and remembers the server of each. The connectors to
// metrics and to traces each have one: the collector makes them apart, and hands
// each all logs.
type follower struct {
	cfg           *Config
	id            component.ID
	log           *zap.Logger
	signal        string             // the name of its storage
	configured    identity           // of the server at the configured endpoint
	newStatistics func() *statistics // of a new instance; nil where nothing is counted
	storage       storage.Client     // nil without one
	proxied       *proxied.Reader    // of the requests that came through a proxy

	mu       sync.Mutex
	sources  map[string]*source // by resource
	changed  map[string]*source // since they were stored
	gone     map[string]bool    // to be deleted from storage
	unsent   map[string]int     // batches of spans of a source that are not handed on yet
	unlisted bool               // the list of sources in storage is out of date
	unstored bool               // storing has failed, and that was logged
	heard    bool               // a record has arrived
	patience patience           // with proxies
}

func newFollower(cfg *Config, set connector.Settings, signal string, newStatistics func() *statistics) (*follower, error) {
	e, err := endpoint.Parse(cfg.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	return &follower{
		cfg: cfg, id: set.ID, log: set.Logger, signal: signal, newStatistics: newStatistics,
		configured: identity{service: cfg.ServiceName, instance: e.Instance, address: e.Address, port: e.Port},
		proxied:    proxied.NewReader(),
		sources:    map[string]*source{},
		changed:    map[string]*source{},
		gone:       map[string]bool{},
		unsent:     map[string]int{},
	}, nil
}

// Capabilities implements consumer.Logs.
func (*follower) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

// Start implements component.Component. The follower goes on where it was stopped.
func (f *follower) Start(ctx context.Context, host component.Host) error {
	if f.cfg.StorageID == nil {
		return nil
	}
	return f.openStorage(ctx, host)
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

// read takes in logs. It calls each for every source that has some of them, with
// the requests that ended in source.ended. The caller holds mu.
func (f *follower) read(ld plog.Logs, now time.Time, each func(*source)) {
	f.heard = f.heard || ld.LogRecordCount() > 0
	f.patience.begin(now)
	looked := files{}
	var batch []*source
	for _, rl := range ld.ResourceLogs().All() {
		h := pdatautil.MapHash(rl.Resource().Attributes())
		resourceKey := hex.EncodeToString(h[:])
		for _, sl := range rl.ScopeLogs().All() {
			for _, r := range sl.LogRecords().All() {
				key := resourceKey
				if u := unit(r.Body()); u != "" {
					key += u
				}
				s := f.source(key, rl.Resource(), now)
				s.add(r, looked, now)
				if !s.inBatch {
					s.inBatch = true
					f.changed[s.key] = s
					batch = append(batch, s)
				}
			}
		}
	}
	for _, s := range batch {
		f.warn(s)
		s.tracker.Settle(s.written)
		for _, p := range s.tracker.Processes {
			s.instance(p) // also one that has nothing to count yet
		}
		each(s)
		clear(s.ended)
		s.ended, s.inBatch = s.ended[:0], false
	}
}

// unit returns the systemd unit that a record of a journal is of, or "": there
// the records of all units have one resource.
func unit(body pcommon.Value) string {
	if body.Type() == pcommon.ValueTypeMap {
		if u, ok := body.Map().Get("_SYSTEMD_UNIT"); ok {
			return u.AsString()
		}
	}
	return ""
}

// source returns the log of one server: the records of a resource or, in a
// journal, of a unit.
func (f *follower) source(key string, resource pcommon.Resource, now time.Time) *source {
	s := f.sources[key]
	if s == nil {
		if len(f.sources) >= maxSources {
			f.forgetOldest()
		}
		s = newSource(key, f.newStatistics)
		resource.CopyTo(s.resource)
		f.sources[key] = s
		f.unlisted = true
		delete(f.gone, key)
	}
	s.lastRead = now
	return s
}

// warn logs, once, what seems to be wrong with a source.
func (f *follower) warn(s *source) {
	if !s.strange && s.events == 0 && s.records >= strangeRecords {
		s.strange = true
		f.log.Warn("no line of these logs is one of llama-server's: check which receiver is connected, and that its operators leave the line as it is",
			zap.Int("records", s.records), zap.Any("resource", s.resource.Attributes().AsRaw()))
	}
	if s.turns >= manyFiles && !s.mixed {
		s.mixed = true
		f.log.Warn("lines come from several files in turn, but are taken for the log of one server: give each server's lines a resource of their own, e.g. with service.instance.id",
			zap.String("file", s.path), zap.Any("resource", s.resource.Attributes().AsRaw()))
	}
	if s.url != "" && !s.compared {
		s.compared = true
		f.compare(s)
	}
}

// compare logs that a log seems to belong to another server than it is named
// after.
func (f *follower) compare(s *source) {
	e, err := endpoint.Parse(s.url)
	id := f.configured.with(s.resource.Attributes(), "")
	if err != nil || id.address == "" || e.Port == id.port {
		return
	}
	f.log.Info("the server whose log this is listens on another port than the one that it is named after: they are the same server only if the port is mapped",
		zap.String("log", s.url), zap.String("named", id.instance))
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
