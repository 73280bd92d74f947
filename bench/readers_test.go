// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/prometheusreceiver"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver"
	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
)

// reader starts to read each of the servers once a second, and counts the
// scrapes.
type reader func(urls []string, scrapes *atomic.Int64) (stop func() error, err error)

var readers = map[string]reader{
	"get-metrics":     get("/metrics"),
	"get-both":        get("/metrics", "/slots"),
	"get-clocks":      getOnClocks("/metrics", "/slots"),
	"llamacpp-server": llamacpp(map[string]any{"server": map[string]any{}}, 1),
	"llamacpp-both": llamacpp(map[string]any{
		"server": map[string]any{},
		"slots":  map[string]any{"collection_interval": "1s"},
	}, 2),
	"prometheus": prometheus,
}

// get reads and drops the bodies, and does nothing else: a client with one
// connection for each server.
func get(paths ...string) reader {
	return func(urls []string, scrapes *atomic.Int64) (func() error, error) {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for i, url := range urls {
			wg.Go(func() {
				client := &http.Client{Transport: &http.Transport{MaxIdleConns: 1, DisableCompression: true}}
				defer client.CloseIdleConnections()
				time.Sleep(time.Duration(i) * time.Second / time.Duration(len(urls)))
				for tick := time.NewTicker(time.Second); ; {
					select {
					case <-tick.C:
					case <-ctx.Done():
						return
					}
					for _, path := range paths {
						if getOne(ctx, client, url+path) != nil {
							return // shows as scrapes that are missing
						}
					}
					scrapes.Add(1)
				}
			})
		}
		return func() error { cancel(); wg.Wait(); return nil }, nil
	}
}

// getOnClocks reads each path on a clock of its own, the next a moment after the
// one before, as the receiver does, over the same connection.
func getOnClocks(paths ...string) reader {
	return func(urls []string, scrapes *atomic.Int64) (func() error, error) {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for i, url := range urls {
			client := &http.Client{Transport: &http.Transport{MaxIdleConns: 1, DisableCompression: true}}
			for k, path := range paths {
				wg.Go(func() {
					defer client.CloseIdleConnections()
					time.Sleep(time.Duration(i)*time.Second/time.Duration(len(urls)) + time.Duration(k)*10*time.Millisecond)
					for tick := time.NewTicker(time.Second); ; {
						select {
						case <-tick.C:
						case <-ctx.Done():
							return
						}
						if getOne(ctx, client, url+path) != nil {
							return
						}
						if k == 0 {
							scrapes.Add(1)
						}
					}
				})
			}
		}
		return func() error { cancel(); wg.Wait(); return nil }, nil
	}
}

func getOne(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// llamacpp runs a receiver for each server, with these scrapers, which send
// perScrape batches together.
func llamacpp(scrapers map[string]any, perScrape int64) reader {
	return func(urls []string, scrapes *atomic.Int64) (func() error, error) {
		next, err := count("llamacpp.server.status", "llamacpp.slots", perScrape, scrapes)
		if err != nil {
			return nil, err
		}
		var all []receiver.Metrics
		for _, url := range urls {
			r, err := start(llamacppreceiver.NewFactory(), map[string]any{"endpoint": url, "scrapers": scrapers}, next)
			if err != nil {
				return nil, err
			}
			all = append(all, r)
		}
		return func() error {
			var errs error
			for _, r := range all {
				errs = errors.Join(errs, r.Shutdown(context.Background()))
			}
			return errs
		}, nil
	}
}

// prometheus runs one receiver for all servers, which reads their /metrics.
func prometheus(urls []string, scrapes *atomic.Int64) (func() error, error) {
	next, err := count("llamacpp:requests_processing", "", 1, scrapes)
	if err != nil {
		return nil, err
	}
	targets := make([]any, len(urls))
	for i, url := range urls {
		targets[i] = strings.TrimPrefix(url, "http://")
	}
	r, err := start(prometheusreceiver.NewFactory(), map[string]any{"config": map[string]any{"scrape_configs": []any{map[string]any{
		"job_name": "llamacpp", "scrape_interval": "1s", "scrape_timeout": "1s",
		"static_configs": []any{map[string]any{"targets": targets}},
	}}}}, next)
	if err != nil {
		return nil, err
	}
	return func() error { return r.Shutdown(context.Background()) }, nil
}

func start(factory receiver.Factory, conf map[string]any, next consumer.Metrics) (receiver.Metrics, error) {
	cfg := factory.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(conf).Unmarshal(cfg); err != nil {
		return nil, err
	}
	r, err := factory.CreateMetrics(context.Background(), receivertest.NewNopSettings(factory.Type()), cfg, next)
	if err != nil {
		return nil, err
	}
	return r, r.Start(context.Background(), componenttest.NewNopHost())
}

// count returns a consumer that drops what it gets and counts the batches that
// have one of two metrics. A scrape is perScrape of them.
func count(metric, orMetric string, perScrape int64, scrapes *atomic.Int64) (consumer.Metrics, error) {
	var batches atomic.Int64
	return consumer.NewMetrics(func(_ context.Context, md pmetric.Metrics) error {
		if has(md, metric) || has(md, orMetric) {
			scrapes.Store(batches.Add(1) / perScrape)
		}
		return nil
	})
}

func has(md pmetric.Metrics, name string) bool {
	_, ok := points.Metric(md, name)
	return ok
}
