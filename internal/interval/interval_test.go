// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package interval

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCheck_RefusesWhatWasMeantToBeLonger(t *testing.T) {
	for d, want := range map[time.Duration]string{
		5:                       "5ns: has it a unit? e.g. 5s",
		500:                     "500ns: has it a unit? e.g. 5s",
		5000:                    "5µs: has it a unit? e.g. 5s",
		0:                       "0s: want 10ms or more",
		-time.Second:            "-1s: want 10ms or more",
		9 * time.Millisecond:    "9ms: want 10ms or more",
		10*time.Millisecond - 1: "9.999999ms: want 10ms or more",
	} {
		require.EqualError(t, Check(d), want)
	}
	for _, d := range []time.Duration{10 * time.Millisecond, time.Second, time.Hour} {
		assert.NoError(t, Check(d))
	}
}
