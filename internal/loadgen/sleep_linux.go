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

// handOver is how long before the wanted time the kernel's timer replaces Go's,
// which wakes up half a millisecond late or more.
const handOver = 2 * time.Millisecond

// PreciseSleep is a Config.Sleep that is accurate to a few tenths of a millisecond
// on an idle machine.
func PreciseSleep(ctx context.Context, until time.Time) {
	sleep(ctx, until.Add(-handOver))
	// Let the goroutines that this one has started run first, since the system call
	// below blocks the processor.
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
	// The Go runtime's signals interrupt the system call.
	for errors.Is(unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &at, nil), unix.EINTR) {
	}
}
