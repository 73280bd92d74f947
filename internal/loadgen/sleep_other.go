// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package loadgen

import (
	"context"
	"time"
)

// PreciseSleep is a Config.Sleep with the accuracy of Go's timers.
func PreciseSleep(ctx context.Context, until time.Time) { sleep(ctx, until) }
