// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaproxyreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver"

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/metadata"
)

// serverOf returns the instance that answered a request, and the name of its model. What
// a receiver that asks the server has found out goes before what the answer says: there
// a client may find the name again that it has sent.
func (h *hub) serverOf(m *measured) (instance, model string) {
	instance = h.where.Instance
	if said := m.Result.Model; said != "" {
		if child, ok := h.resources.Of(h.key(instance + "/" + said)); ok { // of a router
			return instance + "/" + said, serverresource.ModelName(child)
		}
		model = said
	}
	if self, ok := h.resources.Of(h.key(instance)); ok {
		if name := serverresource.ModelName(self); name != "" {
			return instance, name
		}
	}
	return instance, model
}

// known reports whether a receiver in this process has found out about the server.
func (h *hub) known() bool {
	_, ok := h.resources.Of(h.key(h.where.Instance))
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
	known, ok := h.resources.Of(h.key(instance))
	if !ok {
		return rb.Emit()
	}
	if name := serverresource.ModelName(known); name != "" {
		rb.SetLlamacppModelName(name)
	}
	r := rb.Emit()
	serverresource.Complete(r, known)
	return r
}
