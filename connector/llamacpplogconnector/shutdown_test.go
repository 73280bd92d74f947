// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/connector/connectortest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/metadata"
)

// slowMetrics takes its time over the first points, unless they are abandoned.
func slowMetrics(t *testing.T, takes time.Duration, began chan<- struct{}, ended *[]error) consumer.Metrics {
	t.Helper()
	next, err := consumer.NewMetrics(func(ctx context.Context, _ pmetric.Metrics) error {
		if len(*ended) == 0 {
			close(began)
			select {
			case <-ctx.Done():
			case <-time.After(takes):
			}
		}
		*ended = append(*ended, ctx.Err())
		return ctx.Err()
	})
	require.NoError(t, err)
	return next
}

func TestMetrics_PointsBeingSentAtTheEnd(t *testing.T) {
	for name, test := range map[string]struct {
		takes time.Duration
		want  error
	}{
		"get there before the last ones": {100 * time.Millisecond, nil},
		"do not hold it up for long":     {time.Hour, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := newDefaultConfig()
			cfg.MetricsFlushInterval = 10 * time.Millisecond
			began := make(chan struct{})
			var ended []error
			c, err := newMetricsConnector(cfg, connectortest.NewNopSettings(metadata.Type), slowMetrics(t, test.takes, began, &ended))
			require.NoError(t, err)
			require.NoError(t, c.Start(t.Context(), componenttest.NewNopHost()))
			ld := plog.NewLogs()
			ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetStr("0.00.001.138 I srv  llama_server: initializing ...")
			require.NoError(t, c.ConsumeLogs(t.Context(), ld))
			<-began
			require.NoError(t, c.Shutdown(t.Context()))
			require.GreaterOrEqual(t, len(ended), 2)
			assert.Equal(t, test.want, ended[0])
			assert.NoError(t, ended[len(ended)-1])
		})
	}
}
