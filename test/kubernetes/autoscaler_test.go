// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// autoscaler decides as Kubernetes' HorizontalPodAutoscaler does about an external
// metric with an average value: pkg/controller/podautoscaler of v1.37.
type autoscaler struct {
	target             float64
	least, most        int
	upWindow           time.Duration
	downWindow         time.Duration
	upPods, upPercent  int // in a minute; the higher result counts. 0 is no such policy
	downPods           int // in a minute; 0 is no limit
	recommended, moved []noted
}

// noted is how many replicas there were to be at a time, or how many came (went,
// if negative).
type noted struct {
	at       time.Duration
	replicas int
}

const (
	syncPeriod   = 15 * time.Second // --horizontal-pod-autoscaler-sync-period
	tolerance    = 0.1              // --horizontal-pod-autoscaler-tolerance
	policyPeriod = time.Minute
)

// desired is the formula: GetExternalPerPodMetricReplicas.
func desired(sum float64, replicas int, target float64) int {
	if ratio := sum / (target * float64(replicas)); math.Abs(ratio-1) <= tolerance {
		return replicas
	}
	return int(math.Ceil(sum / target))
}

// decide returns how many replicas there are to be, at a time, where there are so
// many and the metric's sum is known.
func (a *autoscaler) decide(at time.Duration, sum float64, replicas int) int {
	want := min(max(desired(sum, replicas, a.target), a.least), a.most)
	want = a.stabilize(at, want, replicas)
	switch {
	case want > replicas:
		want = min(want, max(a.upLimit(at, replicas), replicas))
	case want < replicas && a.downPods > 0:
		want = max(want, min(a.start(at, replicas)-a.downPods, replicas))
	}
	want = min(max(want, a.least), a.most)
	if want != replicas {
		a.moved = append(a.moved, noted{at, want - replicas})
	}
	return want
}

// stabilize goes up by the lowest recommendation of a window and down by the
// highest: stabilizeRecommendationWithBehaviors.
func (a *autoscaler) stabilize(at time.Duration, want, replicas int) int {
	up, down := want, want
	for _, r := range a.recommended {
		if r.at > at-a.upWindow {
			up = min(up, r.replicas)
		}
		if r.at > at-a.downWindow {
			down = max(down, r.replicas)
		}
	}
	a.recommended = append(a.recommended, noted{at, want})
	return min(max(replicas, up), down)
}

// upLimit is calculateScaleUpLimitWithScalingRules.
func (a *autoscaler) upLimit(at time.Duration, replicas int) int {
	if a.upPods == 0 && a.upPercent == 0 {
		return a.most
	}
	start := a.start(at, replicas)
	return max(start+a.upPods, int(math.Ceil(float64(start)*(1+float64(a.upPercent)/100))))
}

// start is how many replicas there were at the start of the policies' period.
func (a *autoscaler) start(at time.Duration, replicas int) int {
	for _, m := range a.moved {
		if m.at > at-policyPeriod {
			replicas -= m.replicas
		}
	}
	return replicas
}

// turns counts how often the number of replicas changed its direction.
func (a *autoscaler) turns() int {
	n := 0
	for i := 1; i < len(a.moved); i++ {
		if (a.moved[i].replicas > 0) != (a.moved[i-1].replicas > 0) {
			n++
		}
	}
	return n
}

// soonest is the shortest time in which a server that came left again, or one
// that left came again.
func (a *autoscaler) soonest() time.Duration {
	shortest := time.Duration(math.MaxInt64)
	for i := 1; i < len(a.moved); i++ {
		if (a.moved[i].replicas > 0) != (a.moved[i-1].replicas > 0) {
			shortest = min(shortest, a.moved[i].at-a.moved[i-1].at)
		}
	}
	return shortest
}

func TestAutoscaler_DecidesAsTheDocumentationSays(t *testing.T) {
	assert.Equal(t, 2, desired(6, 1, 3), "the sum by the target")
	assert.Equal(t, 3, desired(6.1, 1, 3), "rounded up")
	assert.Equal(t, 2, desired(6.5, 2, 3), "within a tenth nothing changes")
	assert.Equal(t, 3, desired(6.7, 2, 3))
	assert.Equal(t, 0, desired(0, 2, 3))

	a := autoscaler{target: 3, least: 1, most: 8, downWindow: 5 * time.Minute, upPods: 2, downPods: 1}
	replicas := 1
	for i, step := range []struct {
		at   time.Duration
		sum  float64
		want int
	}{
		{0, 100, 3},                  // two more in a minute
		{30 * time.Second, 100, 3},   // that minute is not over
		{60 * time.Second, 100, 5},   // now it is
		{120 * time.Second, 3, 5},    // five minutes ago, there was more to do
		{359 * time.Second, 3, 5},    //
		{361 * time.Second, 3, 4},    // one fewer in a minute
		{400 * time.Second, 3, 4},    //
		{422 * time.Second, 3, 3},    //
		{423 * time.Second, 15, 5},   // up goes at once
		{1000 * time.Second, 0, 4},   //
		{1100 * time.Second, 0, 3},   //
		{1200 * time.Second, 0, 2},   //
		{1300 * time.Second, 0, 1},   //
		{1400 * time.Second, 0, 1},   // not below the least
		{1500 * time.Second, 1e6, 3}, //
	} {
		replicas = a.decide(step.at, step.sum, replicas)
		assert.Equal(t, step.want, replicas, "step %d", i)
	}
	assert.Equal(t, 4, a.turns())
	assert.Equal(t, time.Second, a.soonest())
}
