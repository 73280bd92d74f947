// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import "slices"

// Shown is what was last reported of one GPU or one MIG instance, without the
// rest of its reading.
type Shown struct {
	*Reading
	Own    bool // whether it was this receiver that reported it
	Output any  // of the Want of the receiver that did
}

// shown is what was last reported of a GPU or MIG instance, and by whom. It is
// the session's, so that the next receiver to report it ends what it does not go
// on with, and no end of the one before can come after the next one's values.
type shown struct {
	reading *Reading
	by      *Handle
}

// shown returns the parts of readings, by UUID. A receiver that always reports has those of its own. The
// caller holds s.mu.
func (h *Handle) shown() map[string]shown {
	if h.want.Always {
		return h.always
	}
	return h.session.shown
}

// show notes what h reports of a GPU from now on, and adds to l what that may not
// go on with. The caller holds s.mu.
func (h *Handle) show(r *Reading, l *Look) {
	if r.Report {
		h.showPart(r.ID, r, l)
	}
	for _, in := range r.Instances {
		h.showPart(in.ID, r, l)
	}
}

func (h *Handle) showPart(id string, r *Reading, l *Look) {
	before, ok := h.shown()[id]
	switch {
	case !ok:
	case before.by != h, r.State == Failed && before.reading.State != Failed:
		l.Ended = append(l.Ended, before.of(id, h))
	case r.Processes.OK && slices.ContainsFunc(before.reading.Processes.V, r.lacks):
		ended := before.of(id, h)
		ended.keepProcesses(r.lacks)
		l.Ended = append(l.Ended, ended)
	}
	if ok && r.Incomplete && before.reading.State != Failed { // what could not be read was shown before
		full := *before.reading
		if r.Processes.OK {
			full.Processes = r.Processes
		}
		r = &full
	}
	h.shown()[id] = shown{r, h}
}

// of returns the part with a UUID.
func (b shown) of(id string, h *Handle) Shown {
	r := *b.reading
	r.Report = id == r.ID
	r.Instances = slices.DeleteFunc(slices.Clone(r.Instances), func(in Instance) bool { return in.ID != id })
	r.Processes.V = slices.DeleteFunc(slices.Clone(r.Processes.V), func(p Process) bool {
		if r.Report {
			return p.Instance != ""
		}
		return p.Instance != id
	})
	return Shown{&r, b.by == h, b.by.want.Output}
}

// lacks reports whether a process is not listed.
func (r *Reading) lacks(p Process) bool {
	return !slices.ContainsFunc(r.Processes.V, func(q Process) bool { return q.PID == p.PID && q.Instance == p.Instance })
}

// keepProcesses leaves nothing but the processes that have ended.
func (b *Shown) keepProcesses(ended func(Process) bool) {
	r := &Reading{Identity: b.Identity, State: b.State, At: b.At, Report: b.Report, Processes: b.Processes}
	r.Processes.V = slices.DeleteFunc(r.Processes.V, func(p Process) bool { return !ended(p) })
	for _, in := range b.Instances {
		r.Instances = append(r.Instances, Instance{Identity: in.Identity})
	}
	b.Reading = r
}

// endGone moves to l what is there no longer: MIG instances, and everything when
// the driver does not open. The caller holds s.mu.
func (h *Handle) endGone(l *Look) {
	for id, before := range h.shown() {
		r := before.reading
		there := !h.session.down && (id == r.ID || slices.ContainsFunc(h.session.devices, func(d *device) bool {
			return d.ID == r.ID && d.reading.Instance(id).ID != ""
		}))
		if !there && h.isToEnd(id, r) {
			l.Ended = append(l.Ended, before.of(id, h))
			delete(h.shown(), id)
		}
	}
}

// isToEnd reports whether a part of a reading is h's to report, or was when h left
// and is nobody's now.
func (h *Handle) isToEnd(id string, r *Reading) bool {
	selected := func(s selection) bool {
		if id == r.ID {
			return s.gpu(r.Identity)
		}
		return s.instance(r.Identity, r.Instance(id))
	}
	return selected(h.want.Devices) && h.session.insteadOf(h, selected) == nil
}

// Ended returns, after Close, what no other receiver will go on with.
func (h *Handle) Ended() []Shown {
	h.session.mu.Lock()
	defer h.session.mu.Unlock()
	var l Look
	for id, before := range h.shown() {
		if h.isToEnd(id, before.reading) {
			l.Ended = append(l.Ended, before.of(id, h))
			delete(h.shown(), id)
		}
	}
	return l.Ended
}
