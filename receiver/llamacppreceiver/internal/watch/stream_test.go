// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestStream_StartTimes(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	first := &Snapshot{Process: 1}
	var s Stream
	assert.Equal(t, at(1), s.At(at(1), nil), "unreachable at first")
	assert.Equal(t, at(2), s.At(at(2), first), "unknown: the time of its first point")
	assert.Equal(t, at(2), s.At(at(3), first))
	assert.Equal(t, at(2), s.At(at(4), nil), "unreachable for a moment")

	assert.Equal(t, at(5), s.At(at(7), &Snapshot{Process: 2, Since: at(5)}), "restarted: when the last process was read last")
	assert.Equal(t, at(7), s.At(at(8), &Snapshot{Process: 3, Since: at(6)}), "but never before a point that has gone out")
	assert.Equal(t, at(9), s.At(at(9), &Snapshot{Process: 4, Since: at(10)}), "nor after its own")
	s.Restart(at(11))
	assert.Equal(t, at(11), s.At(at(12), nil))
}

// A process whose first point had its own time as start time has ended before
// its second.
func TestStream_ProcessesHaveDifferentStartTimes(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	var s Stream
	assert.Equal(t, at(3), s.At(at(3), &Snapshot{Process: 1}))
	assert.Equal(t, at(4), s.At(at(4), &Snapshot{Process: 2, Since: at(2)}))
}
