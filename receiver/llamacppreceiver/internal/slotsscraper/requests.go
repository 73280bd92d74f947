package slotsscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/slotsscraper"

import (
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

// requests follows the requests in the slots of one process from read to read.
// What happened between two reads is taken to have happened in the middle, so a
// duration is right to ± the interval between the reads.
type requests struct {
	running []request
	// seen is when the slots were last known: read, or known to be idle.
	seen   time.Time
	ended  int64
	total  durations
	prompt durations
}

type request struct {
	slot      int
	task      int64
	began     time.Time // zero when it was there before we were
	generates bool      // its prompt is done
}

func newRequests() requests {
	return requests{
		total: newDurations("llamacpp.request.duration",
			"How long requests held a slot. An estimate, accurate to ± the scrapers' intervals, of the requests that were seen to start and to end; "+
				"those shorter than the interval are missed. Prefer gen_ai.server.request.duration, which is exact, where the connector llamacpplog reads the server's log."),
		prompt: newDurations("llamacpp.request.prompt.duration",
			"How long requests held a slot before their first token. An estimate, accurate to ± the scrapers' intervals, of the requests that were seen to start "+
				"and to generate; those shorter than the interval are missed. Prefer gen_ai.server.time_to_first_token, which is exact, where the connector llamacpplog reads the server's log."),
	}
}

// update takes in what the slots held at a time. When more than gap has passed
// since the last update, nothing is assumed of what happened in between.
func (q *requests) update(now time.Time, slots []llamaserver.Slot, gap time.Duration) {
	if !q.seen.IsZero() && now.Before(q.seen) {
		return
	}
	between := time.Time{}
	if !q.seen.IsZero() && now.Sub(q.seen) <= gap {
		between = q.seen.Add(now.Sub(q.seen) / 2)
	}
	q.seen = now

	kept := q.running[:0]
	for _, r := range q.running {
		s := holding(slots, r.slot, r.task)
		if s == nil {
			q.ended++
			if !r.began.IsZero() && !between.IsZero() {
				q.total.Add(between.Sub(r.began).Seconds())
			}
			continue
		}
		if !r.generates && s.Decoded > 0 {
			r.generates = true
			if !r.began.IsZero() && !between.IsZero() {
				q.prompt.Add(between.Sub(r.began).Seconds())
			}
		}
		kept = append(kept, r)
	}
	known := len(kept)
	for _, s := range slots {
		if s.Busy && !contains(kept[:known], s) {
			// A request that already generates had its prompt between the reads:
			// how long the prompt took is not known.
			kept = append(kept, request{slot: s.ID, task: s.Task, began: between, generates: s.Decoded > 0})
		}
	}
	q.running = kept
}

// holding returns the slot that holds a request; nil where none does.
func holding(slots []llamaserver.Slot, id int, task int64) *llamaserver.Slot {
	for i := range slots {
		if s := &slots[i]; s.Busy && s.ID == id && s.Task == task {
			return s
		}
	}
	return nil
}

func contains(rs []request, s llamaserver.Slot) bool {
	for _, r := range rs {
		if r.slot == s.ID && r.task == s.Task {
			return true
		}
	}
	return false
}
