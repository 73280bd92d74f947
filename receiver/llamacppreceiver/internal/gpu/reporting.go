// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import (
	"cmp"
	"slices"
)

// addReporter adds a receiver where it belongs in the order of reporting: those
// of GPUs and nothing else come first, and otherwise the one that started first.
// The caller holds s.mu.
func (s *session) addReporter(h *Handle) {
	at := slices.IndexFunc(s.handles, func(other *Handle) bool { return h.want.Dedicated && !other.want.Dedicated })
	if at < 0 {
		at = len(s.handles)
	}
	s.handles = slices.Insert(s.handles, at, h)
}

// insteadOf returns the receiver that reports instead of h what both have
// selected; nil if h reports it.
func (s *session) insteadOf(h *Handle, selected func(selection) bool) *Handle {
	if h.want.Always {
		return nil
	}
	for _, other := range s.handles {
		if other == h {
			return nil
		}
		if !other.want.Always && selected(other.want.Devices) {
			return other
		}
	}
	return nil
}

// claim reports whether this receiver is the first to report the last reading of
// a device. It is not when the one before it in the order did so and left.
func (h *Handle) claim(d *device) bool {
	if h.want.Always {
		return true
	}
	first := d.reported != d.reading
	d.reported = d.reading
	return first
}

// view returns the last reading of a device as far as h has selected it, nil for
// nothing, and another receiver that reports any of that instead of h.
func (h *Handle) view(d *device) (*Reading, *Handle) {
	selected := selection(h.want.Devices)
	r := *d.reading
	r.Instances = nil
	var other *Handle
	whole := selected.gpu(r.Identity)
	if whole {
		other = h.session.insteadOf(h, func(s selection) bool { return s.gpu(r.Identity) })
		r.Report = other == nil && h.claim(d)
	}
	seen := whole
	for _, in := range d.reading.Instances {
		if !selected.instance(r.Identity, in.Identity) {
			continue
		}
		seen = true
		reporter := h.session.insteadOf(h, func(s selection) bool { return s.instance(r.Identity, in.Identity) })
		if reporter == nil && (r.Report || !whole) {
			r.Instances = append(r.Instances, in)
		}
		other = cmp.Or(other, reporter)
	}
	if !seen {
		return nil, nil
	}
	if !whole && r.Processes.OK {
		r.Processes.V = slices.DeleteFunc(slices.Clone(r.Processes.V), func(p Process) bool {
			return !selected.instance(r.Identity, d.reading.Instance(p.Instance))
		})
	}
	return &r, other
}
