// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !cgo || !linux

package gpu

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestOpen_WithoutCgoLogsOnceWhatIsMissing(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	h := Open(zap.New(core), Want{}, Options{RetryMin: time.Millisecond, RetryMax: time.Millisecond})
	defer h.Close()
	for range 3 {
		assert.Empty(t, h.Look(context.Background(), 0, 20*time.Second).Readings)
		time.Sleep(2 * time.Millisecond)
	}
	require.Equal(t, 1, logs.Len())
	assert.Contains(t, logs.All()[0].Message, "cgo_enabled: true")
}
