// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacppreceiver

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
)

func TestResource_OtherComponentsKnowItWhileTheReceiverRuns(t *testing.T) {
	cfg := newDefaultConfig()
	cfg.ClientConfig.Endpoint = "http://resource.test:8080"
	r, err := newResource(cfg)
	require.NoError(t, err)
	server := serverresource.Key{Service: defaultServiceName, Instance: "resource.test:8080"}
	model := serverresource.Key{Service: defaultServiceName, Instance: "resource.test:8080/tiny"}
	_, ok := serverresource.Of(server)
	require.False(t, ok)

	r.of("", nil)
	res := r.of("", &llamaserver.Props{ModelName: "an-alias"})
	got, ok := serverresource.Of(server)
	require.True(t, ok)
	assert.Equal(t, res.Attributes().AsRaw(), got.Attributes().AsRaw(), "the latest")
	r.of("tiny", nil)
	_, ok = serverresource.Of(model)
	assert.True(t, ok)

	r.withdraw()
	for _, key := range []serverresource.Key{server, model} {
		_, ok := serverresource.Of(key)
		assert.False(t, ok)
	}
}

func TestHostResource_GPUsOfAFleetHaveAJobAndAnInstance(t *testing.T) {
	host, err := os.Hostname()
	require.NoError(t, err)
	cfg := newDefaultConfig()
	cfg.ServiceName = "a server's"
	assert.Equal(t, map[string]any{"host.name": host, "service.name": "nvidia-gpu", "service.instance.id": host},
		hostResource(cfg.ResourceAttributes).Attributes().AsRaw())

	cfg.ResourceAttributes.ServiceName.Enabled = false
	cfg.ResourceAttributes.ServiceInstanceID.Enabled = false
	assert.Equal(t, map[string]any{"host.name": host}, hostResource(cfg.ResourceAttributes).Attributes().AsRaw())
}
