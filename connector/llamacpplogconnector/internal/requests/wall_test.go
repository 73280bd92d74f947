// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package requests

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// late observes a line a second, each read late.
func late(w *Wall, zero time.Time, from, to time.Duration, delay func(i int) time.Duration) {
	i := 0
	for clock := from; clock < to; clock += time.Second {
		w.Observe(zero.Add(clock).Add(delay(i)), clock)
		i++
	}
}

func TestWall_IsRightToTheShortestDelay(t *testing.T) {
	var w Wall
	late(&w, began, 0, 5*time.Minute, func(i int) time.Duration { return time.Duration(i*37%200+3) * ms })
	assert.Equal(t, began.Add(3*ms).Add(time.Second), w.At(time.Second).UTC())
}

func TestWall_HistoryIsPlacedByItsLastLine(t *testing.T) {
	var w Wall
	now := began.Add(10 * time.Hour)
	for clock := time.Duration(0); clock <= 10*time.Hour; clock += time.Minute {
		w.Observe(now, clock)
	}
	assert.Equal(t, began, w.At(0).UTC())
}

func TestWall_FollowsAMachineThatSlept(t *testing.T) {
	var w Wall
	none := func(int) time.Duration { return 0 }
	late(&w, began, 0, 5*time.Minute, none)
	late(&w, began.Add(8*time.Hour), 5*time.Minute, 6*time.Minute, none)
	assert.Equal(t, began.Add(8*time.Hour), w.At(0).UTC())
}

func TestWall_FollowsAClockThatWasSet(t *testing.T) {
	for _, by := range []time.Duration{-time.Hour, -10 * time.Second, 10 * time.Second, time.Hour} {
		var w Wall
		none := func(int) time.Duration { return 0 }
		late(&w, began, 0, 5*time.Minute, none)
		late(&w, began.Add(by), 5*time.Minute, 8*time.Minute, none)
		assert.Equal(t, began.Add(by), w.At(0).UTC(), by)
	}
}

func TestWall_RestoredPlacesWhatWasLeftUnread(t *testing.T) {
	f := &found{}
	tracker := NewTracker(f, false)
	read(tracker, launch(time.Second, 0, 0))
	b, err := json.Marshal(tracker)
	require.NoError(t, err)
	tracker = NewTracker(f, false)
	require.NoError(t, json.Unmarshal(b, tracker))
	for task := range 5 {
		e := release(time.Minute, task, 1)
		tracker.Add(&e, began.Add(time.Hour), false)
	}
	assert.Equal(t, began.Add(time.Minute), f.requests[0].Process.Wall.At(time.Minute).UTC())
}
