// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package fakenvml

import (
	"sync/atomic"
	"testing"
	"time"
)

// Burn makes GPUs count so many watts each until the end of the test.
func (d *Driver) Burn(tb testing.TB, watts ...float64) {
	tb.Helper()
	began := time.Now()
	before := make([]uint64, len(watts))
	for i := range watts {
		before[i] = d.GPU(i).Energy
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			elapsed := float64(time.Since(began).Milliseconds())
			for i, w := range watts {
				// The library, in another process, reads the same memory.
				atomic.StoreUint64(&d.GPU(i).Energy, before[i]+uint64(w*elapsed))
			}
		}
	}()
	tb.Cleanup(func() {
		close(stop)
		<-stopped
	})
}
