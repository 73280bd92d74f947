// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package serverresource lets the components of one process agree on the
// resource of a server: what one asked of the server itself, such as its model
// and its build, the others, which only read its log, put on their telemetry as
// well. Backends tell servers apart by all of a resource.
package serverresource // import "github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"

import (
	"slices"
	"sync"

	"go.opentelemetry.io/collector/pdata/pcommon"
	conventions "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// Key says which server, by service.name and service.instance.id.
type Key struct{ Service, Instance string }

// publication is the resource from one publisher. Its address tells it from
// those of others.
type publication struct{ resource pcommon.Resource }

var (
	mu        sync.RWMutex
	published = map[Key][]*publication{} // the latest last
)

// Publish makes a resource known as the server's, until withdraw is called. The
// resource must not be changed afterwards. Where several components publish the
// resource of one server, the latest counts.
func Publish(k Key, r pcommon.Resource) (withdraw func()) {
	p := &publication{r}
	mu.Lock()
	defer mu.Unlock()
	published[k] = append(published[k], p)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		rest := slices.DeleteFunc(published[k], func(other *publication) bool { return other == p })
		if published[k] = rest; len(rest) == 0 {
			delete(published, k)
		}
	}
}

// Of returns the server's resource, which must not be changed; ok is false
// where no component of this process asks the server.
func Of(k Key) (r pcommon.Resource, ok bool) {
	mu.RLock()
	defer mu.RUnlock()
	all := published[k]
	if len(all) == 0 {
		return r, false
	}
	return all[len(all)-1].resource, true
}

// Memory remembers the resources that its user has asked for, so that what is
// told of a server last, after the receiver that asks it was shut down, is told of
// the same resource as before. It is safe for concurrent use; the zero value is
// empty.
type Memory struct {
	mu   sync.Mutex
	last map[Key]pcommon.Resource
}

// Of returns the server's resource as Of does, or the one that it had last.
func (m *Memory) Of(k Key) (r pcommon.Resource, ok bool) {
	r, ok = Of(k)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !ok {
		r, ok = m.last[k]
		return r, ok
	}
	if m.last == nil {
		m.last = map[Key]pcommon.Resource{}
	}
	m.last[k] = r
	return r, true
}

// ModelAttribute is the resource attribute of the model's name.
const ModelAttribute = "llamacpp.model.name"

// declared are the attributes that each component sets itself, and its configuration
// may switch off.
var declared = []string{
	ModelAttribute, string(conventions.ServerAddressKey), string(conventions.ServerPortKey),
	string(conventions.ServiceInstanceIDKey), string(conventions.ServiceNameKey),
}

// Complete adds to a resource what another one says besides: attributes that it
// lacks, but for those that each component sets itself.
func Complete(to, from pcommon.Resource) {
	for k, v := range from.Attributes().All() {
		if _, ok := to.Attributes().Get(k); !ok && !slices.Contains(declared, k) {
			v.CopyTo(to.Attributes().PutEmpty(k))
		}
	}
}

// ModelName returns the name of the model that a resource has, or "".
func ModelName(r pcommon.Resource) string {
	v, _ := r.Attributes().Get(ModelAttribute)
	return v.Str()
}
