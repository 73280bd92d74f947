// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"net"
	"path"
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	conventions "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
)

// identity says which server an instance is, or is a model of.
type identity struct {
	service, instance string // service.name and service.instance.id
	address           string // empty if not known
	port              int64
}

func (id identity) key() serverresource.Key {
	return serverresource.Key{Service: id.service, Instance: id.instance}
}

// identityOf returns the identity of an instance. What the log's resource says
// goes before what is configured.
func (f *follower) identityOf(s *source, i *instance) identity {
	if i.identity == (identity{}) {
		i.identity = f.configured.with(s.resource.Attributes(), i.model)
	}
	return i.identity
}

// with returns the identity with what a resource says in place of what is
// configured. model is the model of a router, or empty.
func (id identity) with(resource pcommon.Map, model string) identity {
	if v, ok := resource.Get(string(conventions.ServiceNameKey)); ok {
		id.service = v.AsString()
	}
	address, hasAddress := resource.Get(string(conventions.ServerAddressKey))
	port, hasPort := resource.Get(string(conventions.ServerPortKey))
	if hasAddress {
		id.address = address.AsString()
	}
	if hasPort {
		if n, err := strconv.ParseInt(port.AsString(), 10, 64); err == nil {
			id.port = n
		}
	}
	if hasAddress || hasPort {
		id.instance = net.JoinHostPort(id.address, strconv.FormatInt(id.port, 10))
	}
	if v, ok := resource.Get(string(conventions.ServiceInstanceIDKey)); ok {
		id.instance = v.AsString()
		if !hasAddress { // the configured one is that of another server
			id.address = ""
		}
	}
	if model != "" {
		id.instance += "/" + model
	}
	return id
}

// modelName returns the name of the model that an instance serves, or "". A
// receiver that asks the server knows its alias.
func (f *follower) modelName(s *source, i *instance) string {
	if i.model != "" {
		return i.model
	}
	if f.cfg.Model != "" {
		return f.cfg.Model
	}
	if r, ok := i.known.Of(f.identityOf(s, i).key()); ok {
		if name := serverresource.ModelName(r); name != "" {
			return name
		}
	}
	if i.path != "" {
		return path.Base(strings.ReplaceAll(i.path, `\`, "/"))
	}
	return ""
}

// resourceOf returns the resource of an instance: its identity, what else the
// receiver that asks the server knows, and what else the log's resource says.
func (f *follower) resourceOf(s *source, i *instance) pcommon.Resource {
	id := f.identityOf(s, i)
	rb := metadata.NewResourceBuilder(f.cfg.ResourceAttributes)
	rb.SetServiceName(id.service)
	if id.address != "" {
		rb.SetServerAddress(id.address)
		rb.SetServerPort(id.port)
	}
	rb.SetServiceInstanceID(id.instance)
	if name := f.modelName(s, i); name != "" {
		rb.SetLlamacppModelName(name)
	}
	res := rb.Emit()
	if known, ok := i.known.Of(id.key()); ok {
		serverresource.Complete(res, known)
	}
	serverresource.Complete(res, s.resource)
	return res
}
