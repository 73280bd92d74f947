// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/requests"
)

const (
	listKey   = "sources"
	keyPrefix = "source/"
)

// storedSource is the form in which a source outlives the collector.
type storedSource struct {
	Attributes map[string]any            `json:"attributes"`
	Tracker    *requests.Tracker         `json:"tracker"`
	Positions  positions                 `json:"positions"`
	Instances  map[string]storedInstance `json:"servers"` // by model
	LastRead   time.Time                 `json:"last_read"`
}

type storedInstance struct {
	Path       string          `json:"path,omitempty"`
	Statistics json.RawMessage `json:"statistics,omitempty"`
}

func (f *follower) openStorage(ctx context.Context, host component.Host) error {
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

// store writes the sources that changed. The caller does so before it returns
// from ConsumeLogs, and so before the receiver can note that it has handed the
// logs on. A source whose spans are not handed on yet is left out: after a kill
// its logs have to be read again. A failure to store is no reason to refuse
// logs, as nothing is lost while the collector runs. The caller holds mu.
func (f *follower) store(ctx context.Context) {
	if f.storage == nil {
		return
	}
	var ready []*source
	for _, s := range f.changed {
		if f.unsent[s.key] == 0 {
			ready = append(ready, s)
		}
	}
	if len(ready)+len(f.gone) == 0 {
		return
	}
	err := f.write(ctx, ready)
	if err != nil && !f.unstored {
		f.log.Error("counts cannot be stored: they begin anew if the collector ends before that works again", zap.Error(err))
	}
	f.unstored = err != nil
}

func (f *follower) write(ctx context.Context, ready []*source) error {
	ops := make([]*storage.Operation, 0, len(f.gone)+len(ready)+1)
	for key := range f.gone {
		ops = append(ops, storage.DeleteOperation(keyPrefix+key))
	}
	for _, s := range ready {
		b, err := s.marshal()
		if err != nil {
			return err
		}
		ops = append(ops, storage.SetOperation(keyPrefix+s.key, b))
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
	for _, s := range ready {
		delete(f.changed, s.key)
	}
	clear(f.gone)
	f.unlisted = false
	return nil
}

func (s *source) marshal() ([]byte, error) {
	out := storedSource{
		Attributes: s.resource.Attributes().AsRaw(), Tracker: s.tracker, Positions: s.positions,
		Instances: map[string]storedInstance{}, LastRead: s.lastRead,
	}
	for model, i := range s.instances {
		st := storedInstance{Path: i.path}
		if i.statistics != nil {
			b, err := json.Marshal(i.statistics)
			if err != nil {
				return nil, err
			}
			st.Statistics = b
		}
		out.Instances[model] = st
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
		f.log.Warn("the stored state cannot be read: all counts begin anew", zap.Error(err))
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
			f.log.Warn("the stored state of a server cannot be used: its counts begin anew", zap.Error(err))
			f.forget(key)
			continue
		}
		f.sources[key] = s
	}
	return nil
}

func (f *follower) restoreSource(key string, b []byte) (*source, error) {
	s := newSource(key, f.newStatistics)
	in := storedSource{Tracker: s.tracker}
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, err
	}
	if in.Tracker == nil {
		return nil, errors.New("no tracker")
	}
	for k, v := range in.Attributes { // JSON has no integers
		if n, ok := v.(float64); ok && n == math.Trunc(n) {
			in.Attributes[k] = int64(n)
		}
	}
	if err := s.resource.Attributes().FromRaw(in.Attributes); err != nil {
		return nil, err
	}
	s.positions, s.lastRead = in.Positions, in.LastRead
	for model, stored := range in.Instances {
		i := &instance{model: model, path: stored.Path}
		if f.newStatistics != nil {
			i.statistics = f.newStatistics()
			if err := i.statistics.restore(stored.Statistics); err != nil {
				// Which requests were counted still holds.
				f.log.Warn("the stored counts of a server cannot be used and begin anew", zap.String("server", f.identityOf(s, i).instance), zap.Error(err))
				i.statistics = f.newStatistics()
			}
		}
		s.instances[model] = i
	}
	return s, nil
}
