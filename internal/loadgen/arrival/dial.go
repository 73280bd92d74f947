// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package arrival

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"
)

// Dial produces arrivals whose rate can be changed while they are being sent. It
// is safe for concurrent use.
type Dial struct {
	positions iter.Seq[float64]

	mu      sync.Mutex
	curve   Curve
	at      float64         // position of the last arrival of Times
	turns   int             // so far
	turned  context.Context // cancelled at the next turn
	signify context.CancelFunc
}

// mostTurns limits how deeply curves are nested by Splice.
const mostTurns = 1000

// ErrTurnedTooOften is returned by Turn after 1000 turns.
var ErrTurnedTooOften = errors.New("the rate was changed 1000 times: start another run")

// NewDial returns a dial that begins with the given curve and gaps.
func NewDial(c Curve, g Gaps, seed uint64) *Dial {
	d := &Dial{positions: g(seed), curve: c}
	d.turned, d.signify = context.WithCancel(context.Background())
	return d
}

// Turn continues with another curve from the given time after the start, as Splice
// does. The due time of the next arrival changes too: see Next.
func (d *Dial) Turn(at time.Duration, to Curve) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.turns == mostTurns {
		return ErrTurnedTooOften
	}
	d.turns++
	d.curve = Splice(d.curve, at, to)
	d.signify()
	d.turned, d.signify = context.WithCancel(context.Background())
	return nil
}

// Rate returns the rate at a time after the start, in arrivals per second.
func (d *Dial) Rate(at time.Duration) float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.curve.Rate(at)
}

// Times returns the due times of all arrivals. Each follows the curve as it is when
// that arrival is requested. It can be ranged over once.
func (d *Dial) Times() iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		for p := range d.positions {
			d.mu.Lock()
			d.at = p
			t, ok := d.curve.When(p)
			d.mu.Unlock()
			if !ok || !yield(t) {
				return
			}
		}
	}
}

// Next returns the current due time of the arrival that Times yielded last, and
// false if it is never due. The context is cancelled when the dial is turned, which
// may change the due time.
func (d *Dial) Next() (due time.Duration, ok bool, turned context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	due, ok = d.curve.When(d.at)
	return due, ok, d.turned
}
