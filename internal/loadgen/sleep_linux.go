// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"errors"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Go's timers wake up late by half a millisecond and more; this much before the
// time, the kernel's take over.
const handOver = 2 * time.Millisecond

// PreciseSleep waits until a time as a Config's Sleep does, to within some
// tenths of a millisecond on an idle machine.
func PreciseSleep(ctx context.Context, until time.Time) {
	sleep(ctx, until.Add(-handOver))
	// What this goroutine has started must run before it takes the processor into
	// the kernel.
	runtime.Gosched()
	d := time.Until(until)
	if d <= 0 || ctx.Err() != nil {
		return
	}
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		sleep(ctx, until)
		return
	}
	at := unix.NsecToTimespec(now.Nano() + int64(d))
	// The runtime's own signals interrupt it.
	for errors.Is(unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &at, nil), unix.EINTR) {
	}
}
