// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package arrival

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDial_TurnKeepsTheShareOfTheGapThatHasPassed(t *testing.T) {
	d := NewDial(Constant(1), Regular, 0)
	var dues []time.Duration
	for due := range d.Times() {
		if len(dues) == 2 { // the arrival that was due at 2 s, of which half the gap has passed
			assert.Equal(t, 2*time.Second, due)
			_, _, turned := d.Next()
			require.NoError(t, turned.Err())
			require.NoError(t, d.Turn(1500*time.Millisecond, Constant(10)))
			require.Error(t, turned.Err(), "who waits is told")
			var ok bool
			due, ok, _ = d.Next()
			assert.True(t, ok)
		}
		dues = append(dues, due)
		if len(dues) == 5 {
			break
		}
	}
	const ms = time.Millisecond
	assert.Equal(t, []time.Duration{0, 1000 * ms, 1550 * ms, 1650 * ms, 1750 * ms}, dues)
	assert.InDelta(t, 1, d.Rate(time.Second), 0)
	assert.InDelta(t, 10, d.Rate(2*time.Second), 0)
}

func TestDial_IsTurnedSoOftenOnly(t *testing.T) {
	d := NewDial(Constant(1), Regular, 0)
	for i := range mostTurns {
		require.NoError(t, d.Turn(time.Duration(i), Constant(1)))
	}
	assert.ErrorIs(t, d.Turn(time.Hour, Constant(1)), ErrTurnedTooOften)
}
