// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaproxyreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver"

import (
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"
	conventions "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/metadata"
)

// attributeModel is the resource attribute of the model's name.
const attributeModel = "llamacpp.model.name"

// ours are the resource attributes that metadata.yaml declares, which the configuration
// may switch off.
var ours = []string{
	attributeModel, string(conventions.ServerAddressKey), string(conventions.ServerPortKey),
	string(conventions.ServiceInstanceIDKey), string(conventions.ServiceNameKey),
}

// serverOf returns the instance that answered a request, and the name of its model. What
// a receiver that asks the server has found out goes before what the answer says: there
// a client may find the name again that it has sent.
func (h *hub) serverOf(m *measured) (instance, model string) {
	instance = h.where.Instance
	if said := m.Result.Model; said != "" {
		if child, ok := serverresource.Of(h.key(instance + "/" + said)); ok { // of a router
			return instance + "/" + said, modelOf(child)
		}
		model = said
	}
	if self, ok := serverresource.Of(h.key(instance)); ok {
		if name := modelOf(self); name != "" {
			return instance, name
		}
	}
	return instance, model
}

func modelOf(r pcommon.Resource) string {
	v, _ := r.Attributes().Get(attributeModel)
	return v.Str()
}

// known reports whether a receiver in this process has found out about the server.
func (h *hub) known() bool {
	_, ok := serverresource.Of(h.key(h.where.Instance))
	return ok
}

// resourceOf returns the resource of an instance: its identity, and what else the
// receiver that asks the server knows.
func (h *hub) resourceOf(instance string, cfg metadata.ResourceAttributesConfig) pcommon.Resource {
	rb := metadata.NewResourceBuilder(cfg)
	rb.SetServiceName(h.cfg.ServiceName)
	rb.SetServerAddress(h.where.Address)
	rb.SetServerPort(h.where.Port)
	rb.SetServiceInstanceID(instance)
	known, ok := serverresource.Of(h.key(instance))
	if !ok {
		return rb.Emit()
	}
	if name := modelOf(known); name != "" {
		rb.SetLlamacppModelName(name)
	}
	r := rb.Emit()
	for k, v := range known.Attributes().All() {
		if _, ok := r.Attributes().Get(k); !ok && !slices.Contains(ours, k) {
			v.CopyTo(r.Attributes().PutEmpty(k))
		}
	}
	return r
}
