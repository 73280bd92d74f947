// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
)

// A slow request of a run in a shell is found in the traces of the server's log.
func TestLines_HaveTheTimingsThatTheLogsSpanHas(t *testing.T) {
	var out strings.Builder
	l, err := newLines("-", &out)
	require.NoError(t, err)
	l.write(0, loadgen.Sample{Result: &completion.Result{Timings: &completion.Timings{
		PromptTokens: 24, Prompt: 1383 * time.Microsecond, PredictedTokens: 8, Predicted: 1415 * time.Microsecond,
	}}})
	require.NoError(t, l.close())
	var got struct{ Server map[string]any }
	require.NoError(t, json.Unmarshal([]byte(out.String()), &got))
	assert.Equal(t, map[string]any{"prompt": 0.001383, "prediction": 0.001415, "timings": "24/1.38ms+8/1.42ms"}, got.Server)
}
