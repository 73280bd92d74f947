// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package gpuscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper"

import (
	"cmp"
	"context"
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper/internal/metadata"
)

// held is what the watched server was last known to hold a part of.
type held struct {
	parts    []part
	resource pcommon.Resource // of the server
}

// part is a GPU, or a MIG instance of one, by UUID.
type part struct{ id, gpu string }

// recordServer records what the watched server holds of each GPU, and adds to
// ended what it holds no more. What could not be read is held as before.
func (s *Scraper) recordServer(ctx context.Context, look gpu.Look, ended pmetric.Metrics) {
	if len(look.Readings) == 0 && len(s.held.parts) == 0 {
		return
	}
	resource, known := s.serverResource()
	if !known {
		return
	}
	pids, err := s.server.Processes(ctx)
	if ctx.Err() != nil {
		return
	}
	before := s.held
	s.held = held{nil, resource}
	if err != nil {
		s.logMemory(err.Error())
	} else {
		s.recordHeld(pids, look.Readings, before.parts)
		for _, p := range before.parts {
			if !look.Down && !tells(look.Readings, p.gpu) {
				s.held.add(p)
			}
		}
	}
	s.mb.EmitForResource(metadata.WithResource(s.held.resource))
	if before.resource == s.held.resource {
		before.parts = slices.DeleteFunc(before.parts, func(p part) bool { return slices.Contains(s.held.parts, p) })
	}
	s.addHeld(before, ended)
}

// tells reports whether the readings have what is held of a GPU, if anything is.
func tells(readings []*gpu.Reading, id string) bool {
	return slices.ContainsFunc(readings, func(r *gpu.Reading) bool {
		return r.ID == id && (r.Processes.OK || r.State == gpu.Failed)
	})
}

// recordHeld records what the processes hold. A size that is unknown this time
// does not end what was shown before.
func (s *Scraper) recordHeld(pids []int, readings []*gpu.Reading, before []part) {
	answers, listed, used, unknown := false, false, false, false
	for _, r := range readings {
		answers = answers || r.State != gpu.Failed
		if !r.Processes.OK {
			continue
		}
		listed = true
		held := map[string]uint64{} // by GPU or MIG instance
		for _, p := range r.Processes.V {
			if !slices.Contains(pids, p.PID) {
				continue
			}
			used = true
			at := part{cmp.Or(p.Instance, r.ID), r.ID}
			if !p.Memory.OK {
				unknown = true
				if slices.Contains(before, at) {
					s.held.add(at)
				}
				continue
			}
			held[at.id] += p.Memory.V
			s.held.add(at)
		}
		for id, bytes := range held {
			s.mb.RecordLlamacppGpuMemoryUsageDataPoint(pcommon.NewTimestampFromTime(r.At), int64(bytes), id)
		}
	}
	switch {
	case !answers: // which the log has
	case !listed:
		s.logMemory("the driver does not list processes")
	case unknown:
		s.logMemory("the driver does not tell how much memory its processes hold, as in some containers")
	case !used:
		s.logMemory("its process is not among those that the driver lists: it uses no GPU, " +
			"or this collector runs in another process namespace (give it the host's: hostPID in Kubernetes, --pid=host in Docker)")
	default:
		s.logMemory("")
	}
}

func (h *held) add(p part) {
	if !slices.Contains(h.parts, p) {
		h.parts = append(h.parts, p)
	}
}

// addHeld adds a point of each part.
func (s *Scraper) addHeld(h held, to pmetric.Metrics) {
	if len(h.parts) == 0 {
		return
	}
	mb := metadata.NewMetricsBuilder(s.cfg.MetricsBuilderConfig, s.set)
	parents := map[string]string{}
	for _, p := range h.parts {
		mb.RecordLlamacppGpuMemoryUsageDataPoint(0, 0, p.id)
		if p.id != p.gpu {
			parents[p.id] = p.gpu
		}
	}
	md := mb.Emit(metadata.WithResource(h.resource))
	setParents(md, parents)
	md.ResourceMetrics().MoveAndAppendTo(to.ResourceMetrics())
}

// logMemory logs why the server's memory is not known, when that has changed. ""
// stands for memory that is known, which is logged only after a reason.
func (s *Scraper) logMemory(unknown string) {
	if unknown == s.unknownMemory {
		return
	}
	s.unknownMemory = unknown
	if unknown == "" {
		s.log.Info("the server's process uses a GPU: llamacpp.gpu.memory.usage begins")
		return
	}
	s.log.Info("no llamacpp.gpu.memory.usage: " + unknown)
}
