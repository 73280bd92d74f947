// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package history // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/history"

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"time"

	"github.com/grafana/regexp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/features"
	"github.com/prometheus/prometheus/util/notifications"
	v1 "github.com/prometheus/prometheus/web/api/v1"
)

const (
	// prometheusVersion is what the API says it is, since its clients, such as
	// Grafana, decide by it what they may ask.
	prometheusVersion = "3.14.0"
	// searchLimit and readLimit are Prometheus' defaults.
	searchLimit    = 10_000
	readLimit      = 50_000_000
	readConcurrent = 2
	readFrameBytes = 1 << 20
)

// noOrigin matches no origin: pages of other sites may not read.
var noOrigin = regexp.MustCompile(`^\b$`)

// Handler serves Prometheus' HTTP API below prefix, such as /api/v1. Nothing can
// be changed through it.
func (h *History) Handler(prefix string) http.Handler {
	started := time.Now()
	api := v1.NewAPI(
		h.engine, h.db, nil, nil, h.db,
		func(context.Context) v1.ScrapePoolsRetriever { return nothing{} },
		func(context.Context) v1.TargetRetriever { return nothing{} },
		func(context.Context) v1.AlertmanagerRetriever { return nothing{} },
		func() config.Config { return config.DefaultConfig },
		nil, v1.GlobalURLOptions{},
		func(f http.HandlerFunc) http.HandlerFunc { return f },
		stats{h.db}, h.folder, false, false, searchLimit, slog.New(slog.DiscardHandler),
		func(context.Context) v1.RulesRetriever { return h.rules },
		readLimit, readConcurrent, readFrameBytes, false, noOrigin,
		func() (v1.RuntimeInfo, error) {
			host, err := os.Hostname()
			return v1.RuntimeInfo{
				StartTime: started, ServerTime: time.Now(), Hostname: host, ReloadConfigSuccess: true, LastConfigTime: started,
				GoroutineCount: runtime.NumGoroutine(), GOMAXPROCS: runtime.GOMAXPROCS(0),
				StorageRetention: model.Duration(h.opts.Retention).String(),
			}, err
		},
		&v1.PrometheusVersion{Version: prometheusVersion, Revision: h.opts.Version, Branch: "otelcol-llamacpp", GoVersion: runtime.Version()},
		func() []notifications.Notification { return nil },
		func() (<-chan notifications.Notification, func(), bool) { return nil, func() {}, false },
		h.registry, h.registry, nil, false, nil, false, false, false, false, h.opts.Lookback, false, false,
		nil, features.NewRegistry(), v1.OpenAPIOptions{Version: prometheusVersion}, parser.NewParser(parser.Options{}),
	)
	router := route.New()
	api.Register(router)
	return http.StripPrefix(prefix, router)
}

// nothing stands for what this Prometheus does not do: it scrapes no targets and
// sends to no Alertmanager.
type nothing struct{}

func (nothing) ScrapePools() []string                       { return []string{} }
func (nothing) TargetsActive() map[string][]*scrape.Target  { return nil }
func (nothing) TargetsDropped() map[string][]*scrape.Target { return nil }
func (nothing) TargetsDroppedCounts() map[string]int        { return nil }
func (nothing) Alertmanagers() []*url.URL                   { return nil }
func (nothing) DroppedAlertmanagers() []*url.URL            { return nil }
func (nothing) ScrapePoolConfig(p string) (*config.ScrapeConfig, error) {
	return nil, fmt.Errorf("scrape pool %q not found: this collector scrapes nothing as Prometheus does", p)
}

// stats gives the API what it reports of the database.
type stats struct{ *tsdb.DB }

var _ v1.TSDBAdminStats = stats{}

var errReadOnly = errors.New("this Prometheus is read-only")

func (stats) CleanTombstones() error { return errReadOnly }

func (stats) Delete(context.Context, int64, int64, ...*labels.Matcher) error { return errReadOnly }

func (stats) Snapshot(string, bool) error { return errReadOnly }

func (s stats) Stats(label string, limit int) (*tsdb.Stats, error) {
	return s.Head().Stats(label, limit), nil
}

func (stats) WALReplayStatus() (tsdb.WALReplayStatus, error) { return tsdb.WALReplayStatus{}, nil }

func (s stats) BlockMetas() ([]tsdb.BlockMeta, error) { return s.DB.BlockMetas(), nil }
