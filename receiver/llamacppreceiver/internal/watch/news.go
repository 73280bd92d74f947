// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package watch // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"

import (
	"context"
	"sync"

	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

// news logs what changes, once.
type news struct {
	life context.Context // what fails after its end fails because of it
	log  *zap.Logger

	mu      sync.Mutex
	known   bool // a refresh has come to a result
	last    State
	failing map[string]llamaserver.Reason // by endpoint
}

func newNews(life context.Context, log *zap.Logger) *news {
	return &news{life: life, log: log, failing: map[string]llamaserver.Reason{}}
}

// state logs the server's state when it has changed.
func (n *news) state(v View) {
	n.mu.Lock()
	first, before := !n.known, n.last
	if first && v.State == Unreachable && v.Err == nil {
		n.mu.Unlock()
		return // everything is late, and nothing is known yet
	}
	n.known, n.last = true, v.State
	n.mu.Unlock()
	if !first && before == v.State || n.life.Err() != nil {
		return
	}
	fields := []zap.Field{zap.String("state", v.State.String())}
	if !first {
		fields = append(fields, zap.String("before", before.String()))
	}
	if p := v.Props; p != nil && v.State == OK {
		fields = append(fields, zap.String("build", p.Build), zap.Bool("router", p.Router))
	}
	switch v.State {
	case OK, Sleeping, Loading:
		n.log.Info("llama-server is "+v.State.String(), fields...)
	default:
		n.log.Warn("llama-server is "+v.State.String(), append(fields, zap.Error(v.Err))...)
	}
}

// endpoint logs that an endpoint of a server that is otherwise there begins to
// fail, fails in another way, or works again.
func (n *news) endpoint(endpoint string, err error) {
	if n.life.Err() != nil {
		return
	}
	reason := llamaserver.ReasonOf(err)
	n.mu.Lock()
	before := n.failing[endpoint]
	if reason == 0 {
		delete(n.failing, endpoint)
	} else {
		n.failing[endpoint] = reason
	}
	n.mu.Unlock()
	switch {
	case reason == before:
	case err != nil:
		n.log.Warn("cannot read "+endpoint, zap.Error(err))
	default:
		n.log.Info("can read " + endpoint + " again")
	}
}

// forget drops what is known of an endpoint that is gone.
func (n *news) forget(endpoint string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.failing, endpoint)
}
