// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamalog

import "time"

// Router is what a router writes first: its models and warnings.
func (l *Log) Router(at time.Duration, models []string, key bool) {
	l.initializing(at)
	l.line(at, "I srv    operator(): Available models (%d):", len(models))
	for _, name := range models {
		l.line(at, "I srv    operator():   [models_dir] %s", name)
	}
	l.keyless(at, key)
	l.line(at, "W srv  llama_server: security: router mode enabled - do not expose to untrusted environments")
	l.line(at, "I srv  llama_server: starting server in router mode. models will be automatically loaded on-demand")
	l.flush()
}

// Join says that a request waits for its model.
func (l *Log) Join(at time.Duration, model string) {
	l.line(at, "I srv          join: request for name=%s queued at position 1", model)
	l.flush()
}

// Evict says that a model is unloaded to make room for the one that a request
// waits for.
func (l *Log) Evict(at time.Duration, model string) {
	l.line(at, "I srv          tick: evicting idle LRU name=%s for a queued request", model)
	l.flush()
}

// Limit says that a model is unloaded to make room for one that /models/load asks
// for.
func (l *Log) Limit(at time.Duration, model string) {
	l.line(at, "I srv    unload_lru: models_max limit reached, removing LRU name=%s", model)
	l.line(at, "I srv        unload: stopping model instance name=%s", model)
	l.flush()
}

// Wait says that a request waits until its model is loaded.
func (l *Log) Wait(at time.Duration, model string) {
	l.line(at, "I srv  ensure_model: waiting until model name=%s is fully loaded...", model)
	l.flush()
}

// Room says that there is room for the model that a request waits for.
func (l *Log) Room(at time.Duration, model string) {
	l.line(at, "I srv  ensure_model: slot available, loading queued model name=%s", model)
	l.flush()
}

// Spawn says that a router starts a child.
func (l *Log) Spawn(at time.Duration, model string, port int, args []string) {
	l.line(at, "I srv          load: spawning server instance with name=%s on port %d", model, port)
	l.line(at, "I srv          load: spawning server instance with args:")
	for _, arg := range args {
		l.line(at, "I srv          load:   %s", arg)
	}
	l.flush()
}

// Proxy says that a router passes a request to a child.
func (l *Log) Proxy(at time.Duration, model string, port int) {
	l.line(at, "I srv  proxy_reques: proxying request to model %s on port %d", model, port)
	l.flush()
}

// Unload says that a router stops a child for /models/unload.
func (l *Log) Unload(at time.Duration, model string) {
	l.line(at, "I srv        unload: stopping model instance name=%s", model)
	l.flush()
}

// UnloadLast says that a router that is about to end stops a child.
func (l *Log) UnloadLast(at time.Duration, model string) {
	l.line(at, "I srv    unload_all: stopping model instance name=%s", model)
	l.flush()
}

// ChildExit says that a router's child has ended.
func (l *Log) ChildExit(at time.Duration, model string, status int) {
	l.line(at, "I srv           run: instance name=%s exited with status %d", model, status)
	l.flush()
}

// LoadFailed is what a child writes whose model's file was cut short: it reads
// the file first to fit its settings to the memory, and then again.
func (l *Log) LoadFailed(at time.Duration, path string) {
	const bounds = "E llama_model_load: error loading model: tensor 'blk.0.ffn_down.weight' data is not within the file bounds, model is corrupted or incomplete"
	l.line(at, bounds)
	l.line(at, "E llama_model_load_from_file_impl: failed to load model")
	l.line(at, "E common_fit_params: encountered an error while trying to fit params to free device memory: failed to load model")
	l.line(at, bounds)
	l.line(at, "E llama_model_load_from_file_impl: failed to load model")
	l.line(at, "E cmn  common_init_: failed to load model '%s'", path)
	l.line(at, "E srv    load_model: failed to load model, '%s'", path)
	l.line(at, "I srv    operator(): operator(): cleaning up before exit...")
	l.line(at, "E srv  llama_server: exiting due to model loading error")
	l.flush()
}
