// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package energy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"
)

// Used is the energy that GPUs used within a time.
type Used struct {
	Joules float64
	// Within is the time that was asked for.
	Within time.Duration
	GPUs   int
	// Source says what was read where.
	Source string
}

const (
	// pollInterval is the time between two readings. A counter that somebody reads
	// every 2 s is seen to move so much late at most.
	pollInterval = 500 * time.Millisecond
	// readWithin limits the time of one reading.
	readWithin = 5 * time.Second
	// patience is how long to wait for a counter to move: GPUs use energy always, so
	// that it moves whenever it is read. Prometheus reads every 15 s or so.
	patience = 35 * time.Second
)

// Meter follows the energy that GPUs use. It is made by Start and ended by End or
// Stop.
type Meter struct {
	source *Source
	power  bool
	gpus   int
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	points []point
	last   reading
	lastAt time.Time
	moved  chan struct{} // closed at the next point
	broken error         // why points are missing, for good
	failed error         // of the last reading; nil if it succeeded
}

// point is the energy used up to a time, from an arbitrary beginning.
type point struct {
	at     time.Time
	joules float64
}

// Start begins to read. It returns when the energy at this time is known, which
// takes until the source itself has read the GPUs again.
func (s *Source) Start(ctx context.Context) (*Meter, error) {
	first, err := s.readOnce(ctx)
	if err != nil {
		return nil, err
	}
	poll, cancel := context.WithCancel(context.Background())
	m := &Meter{
		source: s, power: first.power, gpus: len(first.values), cancel: cancel, done: make(chan struct{}),
		last: first, lastAt: time.Now(), moved: make(chan struct{}),
	}
	if m.power {
		m.points = []point{{m.lastAt, 0}}
	}
	go m.poll(poll)
	if err := m.await(ctx, time.Time{}); err != nil {
		m.Stop()
		return nil, err
	}
	return m, nil
}

func (s *Source) readOnce(ctx context.Context) (reading, error) {
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	return s.read(ctx)
}

func (m *Meter) poll(ctx context.Context) {
	defer close(m.done)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		r, err := m.source.readOnce(ctx)
		m.mu.Lock()
		if m.failed = err; err == nil {
			m.add(r, time.Now())
		}
		m.mu.Unlock()
	}
}

// add takes a reading. The caller holds mu.
func (m *Meter) add(r reading, now time.Time) {
	if m.broken != nil {
		return
	}
	if r.power != m.power || !slices.Equal(slices.Sorted(maps.Keys(r.values)), slices.Sorted(maps.Keys(m.last.values))) {
		m.broken = errors.New("the GPUs that the metrics show changed during the run")
		return
	}
	joules := 0.0
	if n := len(m.points); n > 0 {
		joules = m.points[n-1].joules
	}
	for gpu, v := range r.values {
		before := m.last.values[gpu]
		switch {
		case math.IsNaN(v) || math.IsInf(v, 0):
			m.broken = fmt.Errorf("%s of a GPU is %g", m.source.metric(m.power), v)
			return
		case m.power:
			joules += (before + v) / 2 * now.Sub(m.lastAt).Seconds()
		case v < before:
			m.broken = fmt.Errorf("%s went back during the run: the driver or the collector was restarted", m.source.metric(m.power))
			return
		default:
			joules += v - before
		}
	}
	if !m.power && maps.Equal(r.values, m.last.values) {
		return // not read again since
	}
	m.last, m.lastAt = r, now
	m.points = append(m.points, point{now, joules})
	close(m.moved)
	m.moved = make(chan struct{})
}

// await waits until there is a point at a time or later.
func (m *Meter) await(ctx context.Context, at time.Time) error {
	enough := time.NewTimer(patience)
	defer enough.Stop()
	look := time.NewTicker(pollInterval) // what breaks moves nothing
	defer look.Stop()
	for {
		m.mu.Lock()
		n, moved, broken, failed := len(m.points), m.moved, m.broken, m.failed
		reached := n > 0 && !m.points[n-1].at.Before(at)
		m.mu.Unlock()
		switch {
		case broken != nil:
			return broken
		case reached:
			return nil
		}
		select {
		case <-moved:
		case <-look.C:
		case <-ctx.Done():
			return errors.New("the run ended before the GPUs were read again")
		case <-enough.C:
			if failed != nil {
				return failed
			}
			return fmt.Errorf("%s at %s has not moved for %s: is the collector that reads the GPUs running?", m.source.metric(m.power), m.source.address(), patience)
		}
	}
}

// End returns the energy used between two times after Start, as soon as the GPUs
// were read after the second, and stops.
func (m *Meter) End(ctx context.Context, from, to time.Time) (Used, error) {
	defer m.Stop()
	if err := m.await(ctx, to); err != nil {
		return Used{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	what := m.source.metric(m.power)
	if m.power {
		what = "integral of " + what
	}
	return Used{
		Joules: m.at(to) - m.at(from), Within: to.Sub(from), GPUs: m.gpus,
		Source: what + " at " + m.source.address(),
	}, nil
}

// Stop ends the readings.
func (m *Meter) Stop() {
	m.cancel()
	<-m.done
}

// at returns the energy up to a time, on the line between the points beside it. The
// caller holds mu.
func (m *Meter) at(t time.Time) float64 {
	i, found := slices.BinarySearchFunc(m.points, t, func(p point, t time.Time) int { return p.at.Compare(t) })
	switch {
	case found:
		return m.points[i].joules
	case i == 0:
		return m.points[0].joules
	case i == len(m.points):
		return m.points[i-1].joules
	}
	a, b := m.points[i-1], m.points[i]
	part := t.Sub(a.at).Seconds() / b.at.Sub(a.at).Seconds()
	return a.joules + part*(b.joules-a.joules)
}
