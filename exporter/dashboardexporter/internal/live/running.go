// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// runningJSON is a request that holds a slot.
type runningJSON struct {
	Server    string   `json:"server"`
	Slot      int64    `json:"slot"`
	Task      int64    `json:"task"`
	State     string   `json:"state"`
	Since     int64    `json:"since"`
	Prompt    int64    `json:"prompt"`
	Generated int64    `json:"generated"`
	Remaining *int64   `json:"remaining"`
	Context   *float64 `json:"context"`
}

const (
	slotPrefix = "llamacpp_slot_"

	slotExpr = `{__name__=~"` + slotPrefix + `.+",instance=~"$server"}`
	taskExpr = `llamacpp_slot_task{instance=~"$server"}`
	// seedWindow and seedStep are how far back, and how exactly, a new feed looks for
	// the beginning of the requests that run.
	seedWindow = 10 * time.Minute
	seedStep   = time.Second
)

type slotID struct {
	server string
	slot   int64
}

// begun is when a feed first saw a task on its slot.
type begun struct {
	task  int64
	since int64
}

// slots remembers which task each slot had at the last tick.
type slots struct {
	seeded bool
	begun  map[slotID]begun
}

// running returns the requests that hold a slot.
func (s *slots) running(ctx context.Context, h *Hub, v view, now int64) []runningJSON {
	list := []runningJSON{}
	if v.server == "" {
		return list
	}
	found, err := h.instant(ctx, substitute(slotExpr, v, 0), now)
	if err != nil {
		return list
	}
	at := map[slotID]*runningJSON{}
	for _, sample := range found {
		slot, err := strconv.ParseInt(sample.Metric.Get("llamacpp_slot_id"), 10, 64)
		if err != nil || sample.H != nil || !finite(sample.F) {
			continue
		}
		id := slotID{sample.Metric.Get("instance"), slot}
		r := at[id]
		if r == nil {
			r = &runningJSON{Server: id.server, Slot: slot, Task: -1}
			at[id] = r
		}
		name := strings.TrimPrefix(sample.Metric.Get(model.MetricNameLabel), slotPrefix)
		switch strings.TrimSuffix(name, "_ratio") {
		case "status":
			if sample.F == 1 {
				r.State = sample.Metric.Get("llamacpp_slot_state")
			}
		case "task":
			r.Task = int64(sample.F)
		case "tokens_processed":
			r.Prompt = int64(sample.F)
		case "tokens_decoded":
			r.Generated = int64(sample.F)
		case "tokens_remaining":
			if sample.F >= 0 { // -1: until the model ends its answer
				r.Remaining = new(int64(sample.F))
			}
		case "context_usage":
			r.Context = new(sample.F)
		}
	}
	if !s.seeded {
		s.begun = seed(ctx, h, v, now)
		s.seeded = ctx.Err() == nil
	}
	still := map[slotID]begun{}
	for id, r := range at {
		if r.State == "" || r.State == "idle" {
			continue
		}
		b, ok := s.begun[id]
		if !ok || b.task != r.Task {
			b = begun{r.Task, now}
		}
		still[id], r.Since = b, b.since
		list = append(list, *r)
	}
	s.begun = still
	slices.SortFunc(list, func(a, b runningJSON) int {
		return cmp.Or(cmp.Compare(a.Server, b.Server), cmp.Compare(a.Slot, b.Slot))
	})
	return list
}

// seed finds when the tasks of now began, for a feed that was not there.
func seed(ctx context.Context, h *Hub, v view, now int64) map[slotID]begun {
	found := map[slotID]begun{}
	m, err := h.span(ctx, substitute(taskExpr, v, 0), now-seedWindow.Milliseconds(), now, seedStep)
	if err != nil {
		return found
	}
	for _, s := range m {
		slot, err := strconv.ParseInt(s.Metric.Get("llamacpp_slot_id"), 10, 64)
		if err != nil || len(s.Floats) == 0 {
			continue
		}
		last := s.Floats[len(s.Floats)-1]
		b := begun{int64(last.F), last.T}
		for _, p := range slices.Backward(s.Floats) {
			if p.F != last.F || b.since-p.T > seedStep.Milliseconds() {
				break
			}
			b.since = p.T
		}
		found[slotID{s.Metric.Get("instance"), slot}] = b
	}
	return found
}
