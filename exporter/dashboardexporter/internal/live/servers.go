// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
)

const (
	// serversExpr finds the servers, also one that has been silent for some minutes.
	serversExpr = `group by (instance) (last_over_time(llamacpp_server_status[5m]))`
	// gpusExpr finds the GPUs on which a server has memory.
	gpusExpr = `group by (hw_id) (llamacpp_gpu_memory_usage_bytes{instance=~"$server"})`
	// sparkWindow is what the small lines in the table of servers show, and
	// sparkEvery is how long one is good.
	sparkWindow = 5 * time.Minute
	sparkEvery  = 5 * time.Second
)

// overview is the table of servers, which is the same for all views.
type overview struct {
	mu      sync.Mutex
	at      int64
	servers []serverJSON
	sparkAt int64
	sparks  map[string]map[string]numbers // by server, then column
}

// servers returns the table of servers as it was at most a tick before now. With
// sparks, it has the small lines.
func (h *Hub) servers(ctx context.Context, now int64, sparks bool) []serverJSON {
	o := &h.overview
	o.mu.Lock()
	defer o.mu.Unlock()
	if age := now - o.at; age < 0 || age >= h.settings.Tick.Milliseconds()*9/10 {
		if servers := h.table(ctx, now); ctx.Err() == nil {
			o.at, o.servers = now, servers
		}
	}
	if !sparks {
		return o.servers
	}
	if age := now - o.sparkAt; age < 0 || age >= sparkEvery.Milliseconds() {
		if lines := h.sparkLines(ctx, now); ctx.Err() == nil {
			o.sparkAt, o.sparks = now, lines
		}
	}
	servers := slices.Clone(o.servers)
	for i := range servers {
		servers[i].Sparks = o.sparks[servers[i].ID]
	}
	return servers
}

// table evaluates the table of servers.
func (h *Hub) table(ctx context.Context, at int64) []serverJSON {
	byID := map[string]map[string]any{}
	found, _ := h.instant(ctx, serversExpr, at) // it is logged
	for _, s := range found {
		byID[s.Metric.Get("instance")] = map[string]any{}
	}
	for _, column := range h.columns {
		v, err := h.instant(ctx, column.expr, at)
		if err != nil {
			continue
		}
		for _, s := range v {
			values := byID[s.Metric.Get("instance")]
			if _, twice := values[column.id]; values == nil || twice || s.H != nil || !finite(s.F) {
				continue
			}
			if column.label != "" {
				values[column.id] = s.Metric.Get(column.label)
			} else {
				values[column.id] = number(s.F)
			}
		}
	}
	servers := make([]serverJSON, 0, len(byID))
	for id, values := range byID {
		servers = append(servers, serverJSON{ID: id, Values: values})
	}
	slices.SortFunc(servers, func(a, b serverJSON) int { return cmp.Compare(a.ID, b.ID) })
	return servers
}

func (h *Hub) sparkLines(ctx context.Context, at int64) map[string]map[string]numbers {
	lines := map[string]map[string]numbers{}
	step := sparkStep(sparkWindow)
	begin := at - (sparkPoints-1)*step.Milliseconds()
	for i, column := range h.columns {
		if !h.settings.Catalogue.Overview[i].Sparkline {
			continue
		}
		m, err := h.span(ctx, column.expr, begin, at, step)
		if err != nil {
			continue
		}
		for _, s := range m {
			id := s.Metric.Get("instance")
			if lines[id] == nil {
				lines[id] = map[string]numbers{}
			}
			values := lines[id][column.id]
			if values == nil {
				values = gaps(sparkPoints)
				lines[id][column.id] = values
			}
			for _, p := range s.Floats {
				values[(p.T-begin)/step.Milliseconds()] = p.F
			}
		}
	}
	return lines
}

// resolve finds what a view without a server or without GPUs shows.
func (h *Hub) resolve(ctx context.Context, w wish, now int64) view {
	v := view{server: w.server, gpus: w.gpus, step: w.step}
	if v.server == "" {
		if servers := h.servers(ctx, now, false); len(servers) > 0 {
			v.server = servers[0].ID
		}
	}
	if len(v.gpus) == 0 && v.server != "" {
		found, _ := h.instant(ctx, substitute(gpusExpr, v, 0), now)
		for _, s := range found {
			if id := s.Metric.Get("hw_id"); id != "" {
				v.gpus = append(v.gpus, id)
			}
		}
		slices.Sort(v.gpus)
	}
	return v
}

// catalogueJSON is the catalogue with what the page must know of the collector.
type catalogueJSON struct {
	Version string `json:"version"`
	Loadgen bool   `json:"loadgen"`
	TickMS  int64  `json:"tick_ms"`
	*dashboards.Catalogue
}

func (h *Hub) encodeCatalogue() (document, error) {
	return newDocument(catalogueJSON{h.settings.Version, h.settings.Loadgen, h.settings.Tick.Milliseconds(), h.settings.Catalogue})
}
