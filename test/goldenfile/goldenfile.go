// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package goldenfile compares what a test has made with a file that holds what
// it should be. With UPDATE=1 in the environment it writes the file anew.
package goldenfile

import (
	"os"
	"strings"
	"testing"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/golden"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/pmetrictest"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/ptracetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

func update() bool { return os.Getenv("UPDATE") != "" }

// EqualMetrics compares metrics, apart from times and any order, and from what
// the options ignore.
func EqualMetrics(tb testing.TB, file string, actual pmetric.Metrics, options ...pmetrictest.CompareMetricsOption) {
	tb.Helper()
	if update() {
		require.NoError(tb, golden.WriteMetrics(tb, file, actual))
	}
	expected, err := golden.ReadMetrics(file)
	require.NoError(tb, err)
	require.NoError(tb, pmetrictest.CompareMetrics(expected, actual, append(options,
		pmetrictest.IgnoreTimestamp(), pmetrictest.IgnoreStartTimestamp(), pmetrictest.IgnoreMetricsOrder(),
		pmetrictest.IgnoreMetricDataPointsOrder(), pmetrictest.IgnoreResourceMetricsOrder())...))
}

// EqualTraces compares traces, times included, apart from the order of spans.
func EqualTraces(tb testing.TB, file string, actual ptrace.Traces) {
	tb.Helper()
	if update() {
		require.NoError(tb, golden.WriteTraces(tb, file, actual))
	}
	expected, err := golden.ReadTraces(file)
	require.NoError(tb, err)
	require.NoError(tb, ptracetest.CompareTraces(expected, actual, ptracetest.IgnoreResourceSpansOrder(), ptracetest.IgnoreSpansOrder()))
}

// EqualLines compares lines of text, which have no newlines.
func EqualLines(tb testing.TB, file string, actual []string) {
	tb.Helper()
	if update() {
		require.NoError(tb, os.WriteFile(file, []byte(strings.Join(actual, "\n")+"\n"), 0o600))
	}
	expected, err := os.ReadFile(file)
	require.NoError(tb, err)
	assert.Equal(tb, strings.Split(strings.TrimSuffix(string(expected), "\n"), "\n"), actual)
}
