// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacppreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver"

import (
	"os"
	"sync"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/metadata"
)

// resource says who a server is.
type resource struct {
	attributes       metadata.ResourceAttributesConfig
	service, address string
	instance         string
	port             int64

	mu   sync.Mutex
	made map[string]made // by model
}

// made is the resource that was made of some properties.
type made struct {
	props    *llamaserver.Props
	resource pcommon.Resource
}

func newResource(cfg *Config) (*resource, error) {
	e, err := endpoint.Parse(cfg.ClientConfig.Endpoint)
	if err != nil {
		return nil, err
	}
	return &resource{
		attributes: cfg.ResourceAttributes,
		service:    cfg.ServiceName,
		address:    e.Address,
		port:       e.Port,
		instance:   e.Instance,
		made:       map[string]made{},
	}, nil
}

// of makes the resource of the server ("") or of one of its models. props is nil
// when nothing is known of it yet.
// The caller must not change it.
func (r *resource) of(model string, props *llamaserver.Props) pcommon.Resource {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.made[model]
	if !ok || m.props != props {
		m = made{props, r.make(model, props)}
		r.made[model] = m
		serverresource.Publish(r.key(model), m.resource)
	}
	return m.resource
}

// withdraw takes back what other components were told.
func (r *resource) withdraw() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for model := range r.made {
		serverresource.Withdraw(r.key(model))
	}
}

func (r *resource) key(model string) serverresource.Key {
	return serverresource.Key{Service: r.service, Instance: r.instanceOf(model)}
}

func (r *resource) instanceOf(model string) string {
	if model == "" {
		return r.instance
	}
	return r.instance + "/" + model
}

func (r *resource) make(model string, props *llamaserver.Props) pcommon.Resource {
	rb := metadata.NewResourceBuilder(r.attributes)
	rb.SetServiceName(r.service)
	rb.SetServerAddress(r.address)
	rb.SetServerPort(r.port)
	rb.SetServiceInstanceID(r.instanceOf(model))
	name := model
	if props != nil {
		if name == "" {
			name = props.ModelName
		}
		setUnlessEmpty(rb.SetServiceVersion, props.Build)
		setUnlessEmpty(rb.SetLlamacppModelFtype, props.ModelType)
		setUnlessEmpty(rb.SetLlamacppModelPath, props.ModelPath)
	}
	setUnlessEmpty(rb.SetLlamacppModelName, name)
	return rb.Emit()
}

// gpuServiceName is the service.name of GPUs. It is not the receiver's
// service_name, which names a server: the series of a GPU would change with the
// receiver that reports it.
const gpuServiceName = "nvidia-gpu"

// hostResource is that of the GPUs, which are no part of any server. Prometheus
// makes job and instance of service.name and service.instance.id, without which
// it could not tell the GPUs of one host from those of another.
func hostResource(attributes metadata.ResourceAttributesConfig) pcommon.Resource {
	rb := metadata.NewResourceBuilder(attributes)
	rb.SetServiceName(gpuServiceName)
	if name, err := os.Hostname(); err == nil {
		rb.SetHostName(name)
		rb.SetServiceInstanceID(name)
	}
	return rb.Emit()
}

func setUnlessEmpty(set func(string), value string) {
	if value != "" {
		set(value)
	}
}
