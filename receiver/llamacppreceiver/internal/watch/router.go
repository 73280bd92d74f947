// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package watch // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"

import (
	"context"
	"slices"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

// refreshRouter asks a router and its models, and reports whether it still is
// one.
func (s *Server) refreshRouter(ctx context.Context, until time.Time) (v View, router bool) {
	v = s.self.begin()
	r, answered := judge(ctx, until, s, &s.list, "/models", &v)
	if v.State == OK && s.self.propsDue() {
		s.self.readProps(ctx, until, &v)
		if v.Props != nil && !v.Props.Router { // another server took its place
			return v, false
		}
	}
	if !answered || r.err != nil {
		return v, true
	}
	for _, in := range s.adopt(r.value) {
		if there := in.refresh(ctx, until, v.Props != nil && v.Props.MetricsWake()); !there {
			s.forget(in)
		}
	}
	return v, true
}

// adopt makes the instances agree with the router's list, and returns them.
func (s *Server) adopt(models []llamaserver.Model) []*instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	var loaded []*instance
	for _, m := range models {
		var state State
		switch m.State {
		case llamaserver.ModelLoaded:
			state = OK
		case llamaserver.ModelLoading:
			state = Loading
		case llamaserver.ModelSleeping:
			state = Sleeping
		default:
			continue
		}
		var in *instance
		if i := slices.IndexFunc(s.loaded, func(in *instance) bool { return in.model == m.ID }); i >= 0 {
			in = s.loaded[i]
		} else {
			in = newInstance(s.conn, s.news, m.ID, s.listed)
		}
		in.settle(state)
		loaded = append(loaded, in)
	}
	for _, in := range s.loaded {
		if !slices.Contains(loaded, in) {
			in.forget()
		}
	}
	s.models, s.listed, s.loaded = models, time.Now(), loaded
	return slices.Clone(loaded)
}

// forget drops a model that has been unloaded since it was listed.
func (s *Server) forget(in *instance) {
	in.forget()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded = slices.DeleteFunc(s.loaded, func(other *instance) bool { return other == in })
}
