// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package identity makes the resources by which one server and its models are
// known, and publishes them to the other components of this process.
package identity // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/identity"

import (
	"os"
	"sync"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/metadata"
)

// Server holds the resources of one server and its models. It is safe for
// concurrent use.
type Server struct {
	attributes metadata.ResourceAttributesConfig
	service    string
	endpoint   endpoint.Endpoint

	mu        sync.Mutex
	instances map[string]instance // by model, "" for the server itself
}

// instance is a resource, and the properties that it was made of.
type instance struct {
	props    *llamaserver.Props
	resource pcommon.Resource
	withdraw func()
}

// New returns the identity of the server at an endpoint. service is its
// service.name.
func New(attributes metadata.ResourceAttributesConfig, service string, e endpoint.Endpoint) *Server {
	return &Server{attributes: attributes, service: service, endpoint: e, instances: map[string]instance{}}
}

// Resource returns the resource of one of the models, or with "" of the server;
// it must not be changed. props is nil when nothing is known of the server yet.
// As long as the attributes are the same it returns the same resource.
func (s *Server) Resource(model string, props *llamaserver.Props) pcommon.Resource {
	s.mu.Lock()
	defer s.mu.Unlock()
	in, ok := s.instances[model]
	if ok && in.props == props {
		return in.resource
	}
	r := s.build(model, props)
	if ok && r.Attributes().Equal(in.resource.Attributes()) {
		in.props = props
		s.instances[model] = in
		return in.resource
	}
	withdraw := serverresource.Publish(serverresource.Key{Service: s.service, Instance: s.instanceID(model)}, r)
	if ok {
		in.withdraw()
	}
	s.instances[model] = instance{props, r, withdraw}
	return r
}

// Forget withdraws the resource of a model that the router has unloaded. Should
// a scraper still ask for it, it is published again.
func (s *Server) Forget(model string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in, ok := s.instances[model]; ok {
		in.withdraw()
		delete(s.instances, model)
	}
}

// Withdraw withdraws all resources that were published.
func (s *Server) Withdraw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, in := range s.instances {
		in.withdraw()
	}
	clear(s.instances)
}

func (s *Server) instanceID(model string) string {
	if model == "" {
		return s.endpoint.Instance
	}
	return s.endpoint.Instance + "/" + model
}

func (s *Server) build(model string, props *llamaserver.Props) pcommon.Resource {
	rb := metadata.NewResourceBuilder(s.attributes)
	rb.SetServiceName(s.service)
	rb.SetServerAddress(s.endpoint.Address)
	rb.SetServerPort(s.endpoint.Port)
	rb.SetServiceInstanceID(s.instanceID(model))
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

func setUnlessEmpty(set func(string), value string) {
	if value != "" {
		set(value)
	}
}

// gpuServiceName is the service.name of GPUs. It is not the receiver's
// service_name, which names a server: the series of a GPU would change with the
// receiver that reports it.
const gpuServiceName = "nvidia-gpu"

// Host returns the resource of the GPUs, which are no part of any server.
// Prometheus makes job and instance of service.name and service.instance.id,
// without which it could not tell the GPUs of one host from those of another.
func Host(attributes metadata.ResourceAttributesConfig) pcommon.Resource {
	rb := metadata.NewResourceBuilder(attributes)
	rb.SetServiceName(gpuServiceName)
	if name, err := os.Hostname(); err == nil {
		rb.SetHostName(name)
		rb.SetServiceInstanceID(name)
	}
	return rb.Emit()
}
