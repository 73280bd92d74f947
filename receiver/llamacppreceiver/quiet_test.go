// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacppreceiver

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.opentelemetry.io/collector/scraper"
	"go.opentelemetry.io/collector/scraper/scraperhelper"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// The text belongs to scraperhelper and may change with any release of the
// Collector. withoutRepeats would then let a line through at every scrape.
func TestWithoutRepeats_DropsWhatScraperhelperLogsOfAFailedScrape(t *testing.T) {
	for name, tt := range map[string]struct {
		quiet bool
		want  []string
	}{
		"as it is":        {false, []string{"Error scraping metrics"}},
		"without repeats": {true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zapcore.DebugLevel)
			set := receivertest.NewNopSettings(NewFactory().Type())
			set.Logger = zap.New(core)
			if tt.quiet {
				set.Logger = withoutRepeats(set.Logger)
			}
			scrapes := make(chan struct{}, 100)
			failing, err := scraper.NewMetrics(func(context.Context) (pmetric.Metrics, error) {
				scrapes <- struct{}{}
				return pmetric.NewMetrics(), errors.New("refused")
			})
			require.NoError(t, err)
			cfg := scraperhelper.NewDefaultControllerConfig()
			cfg.CollectionInterval, cfg.InitialDelay = 10*time.Millisecond, 0
			c, err := scraperhelper.NewMetricsController(&cfg, set, consumertest.NewNop(), scraperhelper.AddMetricsScraper(component.MustNewType("failing"), failing))
			require.NoError(t, err)
			require.NoError(t, c.Start(t.Context(), componenttest.NewNopHost()))
			<-scrapes
			<-scrapes // the first has been logged
			require.NoError(t, c.Shutdown(t.Context()))
			var messages []string
			for _, e := range logs.All() {
				if len(messages) == 0 || messages[len(messages)-1] != e.Message {
					messages = append(messages, e.Message)
				}
			}
			assert.Equal(t, tt.want, messages)
		})
	}
}
