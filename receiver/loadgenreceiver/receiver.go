// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/loadgenreceiver"

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/configcheck"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/histogram"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/loadgenreceiver/internal/metadata"
)

// Config is the configuration of the receiver.
type Config struct {
	// Extension is the extension whose measurements are received; by default the
	// only one of type loadgen.
	Extension *component.ID `mapstructure:"extension"`

	// Histogram says how distributions are received; by default as the extension
	// is configured.
	Histogram HistogramConfig `mapstructure:"histogram"`
}

// HistogramConfig is the section histogram.
type HistogramConfig struct {
	// Exponential asks for exponential histograms, whatever others receive.
	Exponential configoptional.Optional[ExponentialConfig] `mapstructure:"exponential"`
}

// ExponentialConfig is the section histogram::exponential.
type ExponentialConfig struct {
	// MaxSize is the maximum number of buckets of one histogram; 160 by default.
	MaxSize int32 `mapstructure:"max_size"`
}

func newDefaultConfig() *Config {
	return &Config{Histogram: HistogramConfig{Exponential: configoptional.Default(ExponentialConfig{MaxSize: histogram.DefaultSize})}}
}

var (
	_ confmap.Unmarshaler = (*Config)(nil)
	_ confmap.Validator   = (*Config)(nil)
)

// Unmarshal implements confmap.Unmarshaler. It says what is wrong in the terms of
// the YAML file.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	if err := configcheck.Section(conf, c); err != nil {
		return err
	}
	return conf.Unmarshal(c)
}

// Validate implements confmap.Validator.
func (c *Config) Validate() error {
	if e := c.Histogram.Exponential.Get(); e != nil {
		if err := histogram.CheckSize(e.MaxSize); err != nil {
			return fmt.Errorf("histogram::exponential::max_size: %w", err)
		}
	}
	return nil
}

// A source provides measurements to consumers, as the loadgen extension does.
type source interface {
	AttachMetrics(c consumer.Metrics) (detach func())
	AttachExponential(c consumer.Metrics, maxSize int32) (detach func())
	AttachTraces(c consumer.Traces) (detach func())
}

// loadgenReceiver receives either metrics or traces.
type loadgenReceiver struct {
	cfg    *Config
	attach func(source) (detach func())
	detach func() // nil before Start
}

// Start implements component.Component.
func (r *loadgenReceiver) Start(_ context.Context, host component.Host) error {
	s, err := r.cfg.find(host.GetExtensions())
	if err != nil {
		return err
	}
	r.detach = r.attach(s)
	return nil
}

// Shutdown implements component.Component.
func (r *loadgenReceiver) Shutdown(context.Context) error {
	if r.detach != nil {
		r.detach()
	}
	return nil
}

// attachMetrics sends metrics of a source to next.
func (c *Config) attachMetrics(s source, next consumer.Metrics) (detach func()) {
	if e := c.Histogram.Exponential.Get(); e != nil {
		return s.AttachExponential(next, e.MaxSize)
	}
	return s.AttachMetrics(next)
}

// find returns the extension that the configuration selects.
func (c *Config) find(extensions map[component.ID]component.Component) (source, error) {
	if c.Extension != nil {
		e, ok := extensions[*c.Extension]
		if !ok {
			return nil, fmt.Errorf("extension: %s is not running: configure it under extensions, and list it in service::extensions", c.Extension)
		}
		s, ok := e.(source)
		if !ok {
			return nil, fmt.Errorf("extension: %s generates no load: want one of type %s", c.Extension, metadata.Type)
		}
		return s, nil
	}
	var found source
	var ids []string
	for id, e := range extensions {
		if s, ok := e.(source); ok && id.Type() == metadata.Type {
			found = s
			ids = append(ids, id.String())
		}
	}
	switch len(ids) {
	case 0:
		return nil, errors.New("no extension of type loadgen is running: configure one under extensions, and list it in service::extensions")
	case 1:
		return found, nil
	}
	slices.Sort(ids)
	return nil, fmt.Errorf("%d extensions of type loadgen are running: set extension to one of %s", len(ids), strings.Join(ids, ", "))
}
