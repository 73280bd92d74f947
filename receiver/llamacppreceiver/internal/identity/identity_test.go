// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/metadata"
)

func newServer(t *testing.T, base string) *Server {
	t.Helper()
	e, err := endpoint.Parse(base)
	require.NoError(t, err)
	return New(metadata.DefaultResourceAttributesConfig(), "llama-server", e)
}

func TestServer_OtherComponentsKnowItWhileTheReceiverRuns(t *testing.T) {
	s := newServer(t, "http://resource.test:8080")
	server := serverresource.Key{Service: "llama-server", Instance: "resource.test:8080"}
	model := serverresource.Key{Service: "llama-server", Instance: "resource.test:8080/tiny"}
	_, ok := serverresource.Of(server)
	require.False(t, ok)

	s.Resource("", nil)
	res := s.Resource("", &llamaserver.Props{ModelName: "an-alias"})
	got, ok := serverresource.Of(server)
	require.True(t, ok)
	assert.Equal(t, res.Attributes().AsRaw(), got.Attributes().AsRaw(), "the latest")
	s.Resource("tiny", nil)
	_, ok = serverresource.Of(model)
	assert.True(t, ok)

	s.Withdraw()
	for _, key := range []serverresource.Key{server, model} {
		_, ok := serverresource.Of(key)
		assert.False(t, ok)
	}
}

func TestServer_UnloadedModelIsWithdrawnAtOnce(t *testing.T) {
	s := newServer(t, "http://unload.test:8080")
	defer s.Withdraw()
	s.Resource("", nil)
	s.Resource("tiny", nil)
	s.Forget("tiny")
	_, ok := serverresource.Of(serverresource.Key{Service: "llama-server", Instance: "unload.test:8080/tiny"})
	assert.False(t, ok)
	_, ok = serverresource.Of(serverresource.Key{Service: "llama-server", Instance: "unload.test:8080"})
	assert.True(t, ok)
}

func TestServer_TwoReceiversOnOneEndpointAndOneStops(t *testing.T) {
	key := serverresource.Key{Service: "llama-server", Instance: "shared.test:8080"}
	stays, stops := newServer(t, "http://shared.test:8080"), newServer(t, "http://shared.test:8080")
	stays.Resource("", &llamaserver.Props{ModelName: "tiny"})
	stops.Resource("", &llamaserver.Props{ModelName: "tiny"})
	stops.Withdraw()
	_, ok := serverresource.Of(key)
	assert.True(t, ok)
	stays.Withdraw()
	_, ok = serverresource.Of(key)
	assert.False(t, ok)
}

func TestServer_SameAttributesAreTheSameResource(t *testing.T) {
	s := newServer(t, "http://same.test:8080")
	defer s.Withdraw()
	first := s.Resource("", &llamaserver.Props{ModelName: "tiny"})
	assert.Equal(t, first, s.Resource("", &llamaserver.Props{ModelName: "tiny", Slots: 4}))
	assert.NotEqual(t, first, s.Resource("", &llamaserver.Props{ModelName: "large"}))
}

func TestHost_GPUsOfAFleetHaveAJobAndAnInstance(t *testing.T) {
	host, err := os.Hostname()
	require.NoError(t, err)
	attributes := metadata.DefaultResourceAttributesConfig()
	assert.Equal(t, map[string]any{"host.name": host, "service.name": "nvidia-gpu", "service.instance.id": host},
		Host(attributes).Attributes().AsRaw())

	attributes.ServiceName.Enabled = false
	attributes.ServiceInstanceID.Enabled = false
	assert.Equal(t, map[string]any{"host.name": host}, Host(attributes).Attributes().AsRaw())
}
