// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import (
	"cmp"
	"slices"
	"time"
)

// device is what a session remembers of a GPU, from one connection to the next.
type device struct {
	Identity
	unit     unit // nil while the GPU is lost
	reopened bool // set until the first reading of a connection
	since    time.Time
	reading  *Reading // the last one; nil before the first
	reported *Reading // the last one that a receiver has claimed
	slowRead time.Time
	slow     raw // the last values that hardly ever change

	energy, received, transmitted    counter
	corrected, uncorrected, remapped counter
	throttled                        [reasons]counter
	sampled                          [reasons]float64 // seconds
	xids                             map[uint64]uint64
}

// open takes the GPU as a new connection has it.
func (d *device) open(u unit) {
	d.Identity, d.unit, d.slowRead, d.reopened = u.identity(), u, time.Time{}, true
}

func (d *device) failed() bool { return d.reading != nil && d.reading.State == Failed }

// read asks the driver. The reading is not published yet: see publish.
func (d *device) read(want Want, slowEvery time.Duration) (*raw, error) {
	now := time.Now()
	slow := now.Sub(d.slowRead) >= slowEvery
	r := &raw{}
	if !slow {
		r.keepSlow(&d.slow)
	}
	r.Identity = d.Identity
	err := d.unit.read(r, want, slow)
	if err != nil {
		return nil, err
	}
	r.At = time.Now()
	if slow {
		d.slowRead = now
		d.slow.keepSlow(r)
	}
	return r, nil
}

// publishFailed makes a reading that shows no more than that the GPU is lost.
func (d *device) publishFailed() {
	d.unit = nil
	now := time.Now()
	if d.since.IsZero() {
		d.since = now
	}
	d.reading = &Reading{Identity: d.Identity, At: now, Since: d.since, State: Failed, XIDs: d.errors()}
}

// sampleGap is how far two readings may be apart for what both found to have
// been so in between.
const sampleGap = time.Minute

// publish makes a reading of what the driver returned.
func (d *device) publish(r *raw) {
	if d.since.IsZero() {
		d.since = r.At
	}
	r.Since = d.since
	d.count(r)
	d.countThrottling(r)
	switch {
	case r.remapFailed:
		r.State = PredictedFailure
	case r.remapPending:
		r.State = Degraded
	default:
		r.State = OK
	}
	r.XIDs = d.errors()
	d.reading = &r.Reading
}

// count turns the driver's counters into ours.
func (d *device) count(r *raw) {
	// A connection keeps the driver loaded. Whether it was loaded anew before this
	// connection shows in its energy counter, which does not wrap.
	anew := d.reopened
	d.reopened = false
	if r.Energy.OK {
		if d.energy.seen {
			anew = uint64(r.Energy.V) < d.energy.last
		}
		r.Energy.V = float64(d.energy.add(uint64(r.Energy.V))) / 1000
	}
	if r.Received.OK {
		r.Received.V = d.received.addWrapping(r.Received.V, pcieBits, anew)
	}
	if r.Transmitted.OK {
		r.Transmitted.V = d.transmitted.addWrapping(r.Transmitted.V, pcieBits, anew)
	}
	r.Corrected = d.corrected.addOpt(r.Corrected)
	r.Uncorrected = d.uncorrected.addOpt(r.Uncorrected)
	r.RemappedRows = d.remapped.addOpt(r.remapped)
}

// countThrottling takes the time from the driver, or where it has no counter
// from the readings themselves.
func (d *device) countThrottling(r *raw) {
	for i := range reasons {
		now := r.reasons.V&bits[i] != 0
		if r.reasons.OK {
			r.Reasons[i] = some(now)
		}
		if now && d.reading != nil && d.reading.Reasons[i].OK {
			if gap := r.At.Sub(d.reading.At); gap <= sampleGap {
				d.sampled[i] += gap.Seconds()
			}
		}
		switch t := d.throttled[i].addOpt(r.throttled[i]); {
		case t.OK:
			r.Throttled[i] = some(Throttled{Seconds: float64(t.V) / 1e9})
		case r.reasons.OK && !d.throttled[i].seen:
			r.Throttled[i] = some(Throttled{Seconds: d.sampled[i], Sampled: true})
		}
	}
}

func (d *device) errors() []XID {
	if len(d.xids) == 0 {
		return nil
	}
	xs := make([]XID, 0, len(d.xids))
	for n, count := range d.xids {
		xs = append(xs, XID{n, count})
	}
	slices.SortFunc(xs, func(a, b XID) int { return cmp.Compare(a.Number, b.Number) })
	return xs
}
