// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// annotationJSON is something that happened, and is drawn across all panels. End
// equals time where it took no time, and is nil while it goes on.
type annotationJSON struct {
	ID   string `json:"id"`
	Time int64  `json:"time"`
	End  *int64 `json:"end"`
	Kind string `json:"kind"`
	Text string `json:"text"`
	Run  string `json:"run,omitempty"`
}

const (
	// resolution is the least distance of the points by which annotations are found.
	resolution = 2 * time.Second
	// bridged is the longest gap within one annotation.
	bridged = 15 * time.Second
	// restartWithin is how long a server may be away and its restart still be seen.
	restartWithin = 5 * time.Minute
	// maxAnnotations is how many are sent, the latest.
	maxAnnotations = 500
)

// happening is a kind of annotation: where the expression has a point, it goes on.
type happening struct {
	kind string
	expr string // timeInBucket stands for the distance of the points
	// rises: not where the expression has a point, but where it rises.
	rises bool
	text  func(labels.Labels) string
}

var happenings = []happening{
	{
		kind: "restart", rises: true,
		expr: `max by (instance) (resets(llamacpp_decode_calls_total{instance=~"$server"}[$__rate_interval]))` +
			` or max by (instance) (resets(llamacpp_tokens_predicted_total{instance=~"$server"}[$__rate_interval]))`,
		text: func(labels.Labels) string { return "restart" },
	},
	{
		kind: "sleep",
		expr: `max by (instance) (max_over_time(llamacpp_server_status{instance=~"$server",llamacpp_server_state="sleeping"}` + timeInBucket + `)) == 1`,
		text: func(labels.Labels) string { return "asleep" },
	},
	{
		kind: "load",
		expr: `group by (instance) (last_over_time(loadgen_requests_in_flight{job="llamaload"}` + timeInBucket + `))`,
		text: func(l labels.Labels) string { return "load run " + l.Get("instance") },
	},
	{
		// At its power limit a GPU does all that it may: that is no event.
		kind: "throttle",
		expr: `max by (hw_name, nvidia_gpu_throttle_reason) (max_over_time(nvidia_gpu_throttle{hw_id=~"$gpu",nvidia_gpu_throttle_reason!="power_cap"}` + timeInBucket + `)) == 1`,
		text: func(l labels.Labels) string {
			return cmp.Or(l.Get("hw_name"), "GPU") + " held back: " + l.Get("nvidia_gpu_throttle_reason")
		},
	},
	{
		kind: "alert",
		expr: `max by (alertname, instance, hw_id) (max_over_time(ALERTS{alertstate="firing",kind="alert"}` + timeInBucket + `))`,
		text: func(l labels.Labels) string { return l.Get("alertname") },
	},
}

// note is an annotation as far as it is known.
type note struct {
	kind, subject, text string
	labels              labels.Labels
	first, last         int64
}

// notes are the annotations of a view. Each point of time is evaluated once.
type notes struct {
	mu    sync.Mutex
	step  time.Duration
	from  int64 // they are complete from here
	until int64 // and to here
	all   map[string][]*note
	risen map[string]float64
	needs []needs // of the happenings
}

// noteStep returns the distance of points for a view.
func noteStep(step time.Duration) time.Duration { return max(step, resolution) }

// in returns the annotations of a window, after a look at what is new. Where quiet
// says that nothing has come for long, it does not look.
func (n *notes) in(
	ctx context.Context, h *Hub, v view, servers []serverJSON, now int64, length time.Duration, quiet func(needs, int64) bool,
) []annotationJSON {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.step = noteStep(v.step)
	n.refresh(ctx, h, v, floor(now-length.Milliseconds(), n.step), floor(now, n.step), quiet)
	return n.list(v, servers, now-length.Milliseconds())
}

func (n *notes) refresh(ctx context.Context, h *Hub, v view, from, until int64, quiet func(needs, int64) bool) {
	if n.all == nil || from < n.from {
		n.from, n.until = from, from
		n.all, n.risen = map[string][]*note{}, map[string]float64{}
	}
	step := n.step.Milliseconds()
	if until < n.until+step {
		return
	}
	recent := until-n.until <= max(step, (hush/2).Milliseconds())
	for i, w := range happenings {
		expr := over(substitute(w.expr, v, restartWithin+n.step), max(n.step, defaultInterval))
		if i == len(n.needs) {
			n.needs = append(n.needs, needsOf(expr))
		}
		if recent && n.step < hush && quiet(n.needs[i], n.until) {
			continue
		}
		m, err := h.span(ctx, expr, n.until+step, until, n.step)
		if ctx.Err() != nil {
			n.all = nil // from the beginning at the next tick
			return
		}
		if err != nil {
			continue
		}
		for _, s := range m {
			subject := w.kind + s.Metric.String()
			for _, p := range s.Floats {
				if !w.rises {
					n.add(w, subject, s.Metric, p.T)
					continue
				}
				if before, ok := n.risen[subject]; ok && p.F > before {
					n.all[subject] = append(n.all[subject], &note{w.kind, subject, w.text(s.Metric), s.Metric, p.T, p.T})
				}
				n.risen[subject] = p.F
			}
		}
	}
	n.until = until
}

// add prolongs the last note of a subject, or begins another.
func (n *notes) add(w happening, subject string, l labels.Labels, at int64) {
	have := n.all[subject]
	if len(have) > 0 {
		last := have[len(have)-1]
		if at-last.last <= max(bridged, 2*n.step).Milliseconds() {
			last.last = at
			return
		}
	}
	n.all[subject] = append(have, &note{w.kind, subject, w.text(l), l, at, at})
}

// list returns the notes since a point of time.
func (n *notes) list(v view, servers []serverJSON, since int64) []annotationJSON {
	list := []annotationJSON{}
	for _, all := range n.all {
		for _, one := range all {
			if one.last < since || !concerns(v, servers, one.labels.Get("instance"), one.labels.Get("hw_id")) {
				continue
			}
			a := annotationJSON{
				ID: one.subject + "@" + strconv.FormatInt(one.first, 10), Time: one.first, Kind: one.kind, Text: one.text,
			}
			if one.kind == "restart" || one.last < n.until {
				a.End = new(one.last)
			}
			if one.kind == "load" {
				a.Run = one.labels.Get("instance")
			}
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b annotationJSON) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), strings.Compare(a.ID, b.ID))
	})
	return list[max(0, len(list)-maxAnnotations):]
}

// forget drops what ended before a point of time.
func (n *notes) forget(before int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for subject, all := range n.all {
		all = slices.DeleteFunc(all, func(one *note) bool { return one.last < before })
		if len(all) == 0 {
			delete(n.all, subject)
		} else {
			n.all[subject] = all
		}
	}
	// A snapshot whose time was read before that of the tick still finds what it wants.
	n.from = max(n.from, floor(before, n.step)-2*n.step.Milliseconds())
}
