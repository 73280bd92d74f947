// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Handle is one receiver's share of the session.
type Handle struct {
	session *session
	want    Want
	log     *zap.Logger
	once    sync.Once
	left    chan struct{} // closed by Close
	// taken are the last readings that this receiver has taken.
	taken  map[*device]*Reading
	always map[string]shown // of a receiver that always reports
}

// Open joins the process's session with the driver, or begins it. It does not
// wait for the driver, and finds one that appears later.
func Open(log *zap.Logger, want Want, o Options) *Handle {
	o.RetryMin = cmp.Or(o.RetryMin, time.Second)
	o.RetryMax = cmp.Or(o.RetryMax, 30*time.Second)
	o.SlowEvery = cmp.Or(o.SlowEvery, 10*time.Second)
	o.StuckAfter = cmp.Or(o.StuckAfter, 5*time.Second)
	o.EventWait = cmp.Or(o.EventWait, 200*time.Millisecond)
	h := &Handle{want: want, log: log, left: make(chan struct{}), taken: map[*device]*Reading{}, always: map[string]shown{}}
	sessions.Lock()
	defer sessions.Unlock()
	h.session = sessions.open[o.Library]
	if h.session == nil {
		h.session = begin(newDriver(o.Library), o)
	}
	h.session.join(h)
	return h
}

// closePatience is how long Close waits for a call that does not return, which
// nothing can end.
const closePatience = 2 * time.Second

// Close leaves the session and ends a Look under way. The last one to leave ends
// the session, for which it waits up to two seconds.
func (h *Handle) Close() {
	h.once.Do(func() {
		close(h.left)
		sessions.Lock()
		last := h.session.leave(h)
		sessions.Unlock()
		if !last {
			return
		}
		timer := time.NewTimer(closePatience)
		defer timer.Stop()
		select {
		case <-h.session.ended:
		case <-timer.C:
		}
	})
}

// Look reads the GPUs, or takes what another receiver has read no longer than
// fresh ago. No reading comes twice. It never fails: where there is no driver or
// no GPU there are no readings, and the log has said why. It returns within
// patience, without the GPUs that have not answered by then, and empty when ctx
// or the handle ends.
func (h *Handle) Look(ctx context.Context, fresh, patience time.Duration) Look {
	s := h.session
	since := time.Now().Add(-fresh)
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.hasLeft() {
		return Look{}
	}
	if h.hasAll(since) {
		return h.collect(since)
	}
	over, late := s.ask(), false
	s.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-over:
	case <-timer.C:
		late = true
	case <-ctx.Done():
	case <-h.left:
	}
	s.mu.Lock()
	if ctx.Err() != nil || h.hasLeft() {
		return Look{}
	}
	if late {
		s.logStuck()
	}
	return h.collect(since)
}

// hasLeft reports whether Close was called.
func (h *Handle) hasLeft() bool {
	select {
	case <-h.left:
		return true
	default:
		return false
	}
}

// isNew reports whether the last reading of a device is no older than since, and
// not yet taken by this receiver.
func (h *Handle) isNew(d *device, since time.Time) bool {
	return d.reading != nil && d.reading != h.taken[d] && !d.reading.At.Before(since)
}

// hasAll reports whether there are GPUs, each with such a reading.
func (h *Handle) hasAll(since time.Time) bool {
	for _, d := range h.session.devices {
		if !h.isNew(d, since) {
			return false
		}
	}
	return len(h.session.devices) > 0
}

// collect takes those readings, as far as this receiver has selected them.
func (h *Handle) collect(since time.Time) Look {
	var l Look
	for _, d := range h.session.devices {
		if !h.isNew(d, since) {
			continue
		}
		h.taken[d] = d.reading
		r, reporter := h.view(d)
		if r != nil {
			l.Readings = append(l.Readings, r)
			h.show(r, &l)
		}
		if reporter != nil {
			l.Reporter = reporter.want.Name
		}
	}
	h.endGone(&l)
	l.Down = h.session.down
	l.Missing = h.missing()
	return l
}

// missing are the selected devices that are not there. While a GPU does not
// answer, nobody knows what it has.
func (h *Handle) missing() []Selector {
	devices := h.session.devices
	if len(devices) == 0 || slices.ContainsFunc(devices, func(d *device) bool { return d.reading == nil || d.failed() }) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(h.want.Devices), func(s Selector) bool {
		return slices.ContainsFunc(devices, func(d *device) bool {
			return s.isGPU(d.Identity) || slices.ContainsFunc(d.reading.Instances, func(in Instance) bool { return s.isInstance(d.Identity, in.Identity) })
		})
	})
}
