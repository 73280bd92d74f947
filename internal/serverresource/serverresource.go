// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package serverresource lets the components of one process agree on the
// resource of a server: what one asked of the server itself, such as its model
// and its build, the others, which only read its log, put on their telemetry as
// well. Backends tell servers apart by all of a resource.
package serverresource // import "github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"

import (
	"sync"

	"go.opentelemetry.io/collector/pdata/pcommon"
)

// Key says which server, by service.name and service.instance.id.
type Key struct{ Service, Instance string }

var (
	mu    sync.RWMutex
	known = map[Key]pcommon.Resource{}
)

// Publish says what the server's resource is. It must not be changed afterwards.
func Publish(k Key, r pcommon.Resource) {
	mu.Lock()
	defer mu.Unlock()
	known[k] = r
}

// Withdraw takes back what was published.
func Withdraw(k Key) {
	mu.Lock()
	defer mu.Unlock()
	delete(known, k)
}

// Of returns the server's resource, which must not be changed; ok is false
// where no component of this process asks the server.
func Of(k Key) (r pcommon.Resource, ok bool) {
	mu.RLock()
	defer mu.RUnlock()
	r, ok = known[k]
	return r, ok
}
