// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/connector/connectortest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/serverresource"
)

func TestConnector_CallsAServerAsTheReceiverThatAsksIt(t *testing.T) {
	asked := pcommon.NewResource()
	require.NoError(t, asked.Attributes().FromRaw(map[string]any{
		"service.name": "llama-server", "service.instance.id": "localhost:8080", "server.address": "localhost", "server.port": 8080,
		"service.version": "b11669", "llamacpp.model.name": "an-alias",
	}))
	key := serverresource.Key{Service: "llama-server", Instance: "localhost:8080"}
	withdraw := serverresource.Publish(key, asked)
	t.Cleanup(withdraw)

	sink := new(consumertest.TracesSink)
	c, err := newTracesConnector(newDefaultConfig(), connectortest.NewNopSettings(metadata.Type), sink)
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context(), componenttest.NewNopHost()))
	ld := plog.NewLogs()
	records := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	for _, line := range []string{
		"0.00.046.218 I slot launch_slot_: id  0 | task 0 | processing task, is_child = 0",
		"0.00.048.300 I slot      release: id  0 | task 0 | stop processing: n_tokens = 49, truncated = 0",
	} {
		records.AppendEmpty().Body().SetStr(line)
	}
	require.NoError(t, c.ConsumeLogs(t.Context(), ld))
	require.NoError(t, c.Shutdown(t.Context()))

	require.Len(t, sink.AllTraces(), 1)
	spans := sink.AllTraces()[0].ResourceSpans().At(0)
	assert.Equal(t, asked.Attributes().AsRaw(), spans.Resource().Attributes().AsRaw())
	assert.Equal(t, "text_completion an-alias", spans.ScopeSpans().At(0).Spans().At(0).Name())
}
