// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package loadgen

import (
	"context"
	"time"
)

// PreciseSleep waits until a time as a Config's Sleep does.
func PreciseSleep(ctx context.Context, until time.Time) { sleep(ctx, until) }
