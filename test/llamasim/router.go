// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamasim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamalog"
)

// router is router mode: one child process for each loaded model.
type router struct {
	s     *Server
	o     RouterOptions
	start time.Time
	mu    sync.Mutex
	log   *llamalog.Log // nil for none
	list  []*child      // by name
	uses  int64
}

// child is one model of a router.
type child struct {
	name   string
	broken bool
	o      Options

	e       *engine // nil when unloaded
	failed  bool
	port    int
	lastUse int64
}

func newRouter(s *Server) *router {
	rt := &router{s: s, o: *s.o.Router, start: s.o.Now()}
	for _, name := range append(slices.Clone(rt.o.Models), rt.o.Broken...) {
		o := s.o
		o.ModelName, o.Router, o.LoadTime, o.Prefix = name, nil, rt.o.LoadTime, ""
		rt.list = append(rt.list, &child{name: name, broken: slices.Contains(rt.o.Broken, name), o: o})
	}
	slices.SortFunc(rt.list, func(a, b *child) int { return strings.Compare(a.name, b.name) })
	if s.log != nil {
		rt.log = llamalog.New(s.log, 0)
		var names []string
		for _, c := range rt.list {
			names = append(names, c.name)
		}
		rt.log.Router(0, names, s.o.APIKey != "")
		if url := s.url(); url != "" {
			rt.log.Listening(0, url)
		}
	}
	return rt
}

// say writes to the router's log, where there is one. It needs the lock.
func (rt *router) say(write func(l *llamalog.Log, at time.Duration)) {
	if rt.log != nil {
		write(rt.log, rt.s.o.Now().Sub(rt.start))
	}
}

func (rt *router) listening(url string) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.say(func(l *llamalog.Log, at time.Duration) { l.Listening(at, url) })
}

// stop ends a router in order, and with it its children.
func (rt *router) stop() {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.say((*llamalog.Log).Stop)
	for _, c := range rt.list {
		if c.e != nil {
			rt.say(func(l *llamalog.Log, at time.Duration) { l.UnloadLast(at, c.name) })
			rt.stopChild(c)
		}
	}
}

// stopChild ends a child in order. It needs the lock.
func (rt *router) stopChild(c *child) {
	c.e.stop()
	rt.unload(c, 0)
}

func (rt *router) engines() []*engine {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.settle()
	var es []*engine
	for _, c := range rt.list {
		if c.e != nil {
			es = append(es, c.e)
		}
	}
	return es
}

// settle ends the loads of broken models that have had their time. It needs the
// lock.
func (rt *router) settle() {
	for _, c := range rt.list {
		if c.e != nil && c.broken && !c.e.loading() {
			if l := c.e.log; l != nil {
				l.LoadFailed(c.o.LoadTime, modelPath(&c.o))
			}
			rt.unload(c, 1)
			c.failed = true
		}
	}
}

// load starts a child, for a request that waits or for /models/load, and evicts the
// least recently used one where there are too many. It needs the lock.
func (rt *router) load(c *child, request bool) {
	say := func(write func(l *llamalog.Log, at time.Duration, model string), of *child) {
		rt.say(func(l *llamalog.Log, at time.Duration) { write(l, at, of.name) })
	}
	loaded := 0
	var oldest *child
	for _, other := range rt.list {
		if other.e != nil {
			loaded++
			if oldest == nil || other.lastUse < oldest.lastUse {
				oldest = other
			}
		}
	}
	full := loaded >= rt.o.MaxLoaded
	if request {
		say((*llamalog.Log).Join, c)
		if full {
			say((*llamalog.Log).Evict, oldest)
		}
		say((*llamalog.Log).Wait, c)
	} else if full {
		say((*llamalog.Log).Limit, oldest)
	}
	if full {
		rt.stopChild(oldest)
	}
	if request {
		say((*llamalog.Log).Room, c)
	}
	rt.uses++
	c.port = 40001 + int(rt.s.starts.Load())
	rt.say(func(l *llamalog.Log, at time.Duration) { l.Spawn(at, c.name, c.port, c.args()) })
	log := rt.s.newLog(&c.o, c.port, fmt.Sprintf("http://127.0.0.1:%d", c.port), c.broken)
	c.e, c.failed, c.lastUse = rt.s.newEngine(&c.o, log), false, rt.uses
}

// unload ends a child's process, whose exit status is given.
func (rt *router) unload(c *child, status int) {
	rt.s.past.Add(c.e.kill())
	c.e = nil
	rt.say(func(l *llamalog.Log, at time.Duration) { l.ChildExit(at, c.name, status) })
}

// args are the child's command line.
func (c *child) args() []string {
	return []string{
		"/usr/bin/llama-server", "--host", "127.0.0.1", "--metrics", "--port", fmt.Sprint(c.port), "--alias", c.name,
		"--ctx-size", fmt.Sprint(c.context()), "--model", modelPath(&c.o), "--parallel", fmt.Sprint(c.o.Slots),
	}
}

// context is that of all slots together, in tokens.
func (c *child) context() int { return c.o.ContextPerSlot * c.o.Slots }

func (c *child) status() string {
	switch {
	case c.e == nil:
		return "unloaded"
	case c.e.loading():
		return "loading"
	}
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.e.advance()
	if c.e.asleep {
		return "sleeping"
	}
	return "loaded"
}

func (rt *router) find(name string) *child {
	i := slices.IndexFunc(rt.list, func(c *child) bool { return c.name == name })
	if i < 0 {
		return nil
	}
	return rt.list[i]
}

const badRequest = "invalid_request_error"

// serve answers what the router knows itself and proxies the rest.
func (rt *router) serve(x *exchange, path string) {
	get := x.r.Method == http.MethodGet || x.r.Method == http.MethodHead
	model := x.r.URL.Query().Get("model")
	switch {
	case get && (path == "/health" || path == "/v1/health"):
		x.answer(http.StatusOK, jsonType, `{"status":"ok"}`)
	case get && (path == "/models" || path == "/v1/models"):
		x.answer(http.StatusOK, jsonType, rt.modelsJSON())
	case get && path == "/props" && model == "":
		x.answer(http.StatusOK, jsonType, fmt.Sprintf(`{"role":"router","max_instances":%d,"models_autoload":%t,"model_alias":"llama-server",`+
			`"model_path":"none","default_generation_settings":{"params":null,"n_ctx":0},"ui_settings":{},"build_info":%q,"cors_proxy_enabled":false}`,
			rt.o.MaxLoaded, !rt.o.NoAutoload, rt.s.o.Build))
	case get && (path == "/metrics" || path == "/slots" || path == "/props" || path == "/lora-adapters"):
		autoload := !rt.o.NoAutoload
		switch x.r.URL.Query().Get("autoload") {
		case "false", "0":
			autoload = false
		case "true", "1":
			autoload = true
		}
		rt.proxy(x, path, model, autoload, nil)
	case x.r.Method == http.MethodPost && (path == "/models/load" || path == "/models/unload"):
		rt.command(x, path)
	case x.r.Method == http.MethodPost:
		if _, ok := flavors[path]; !ok && path != "/tokenize" && path != "/props" {
			x.notFound()
			return
		}
		body := readBody(x.r)
		var q struct{ Model string }
		if err := json.Unmarshal(body, &q); err != nil {
			x.fail(http.StatusBadRequest, badRequest, "[json.exception.parse_error.101] "+err.Error())
			return
		}
		rt.proxy(x, path, q.Model, !rt.o.NoAutoload, body)
	case get && (path == "/" || path == "/index.html"):
		x.answer(http.StatusOK, "text/html", "<!DOCTYPE html>\n")
	default:
		x.notFound()
	}
}

func (rt *router) command(x *exchange, path string) {
	var q struct{ Model string }
	if err := json.Unmarshal(readBody(x.r), &q); err != nil {
		x.fail(http.StatusBadRequest, badRequest, "[json.exception.parse_error.101] "+err.Error())
		return
	}
	rt.mu.Lock()
	rt.settle()
	c := rt.find(q.Model)
	problem := ""
	switch {
	case c == nil && path == "/models/unload":
		problem = "model is not found"
	case c == nil:
		rt.mu.Unlock()
		x.notFound()
		return
	case path == "/models/load" && c.e != nil:
		problem = "model is already running"
	case path == "/models/load":
		rt.load(c, false)
	case c.e == nil:
		problem = "model is not running"
	default:
		rt.say(func(l *llamalog.Log, at time.Duration) { l.Unload(at, c.name) })
		rt.stopChild(c)
	}
	rt.mu.Unlock()
	if problem != "" {
		x.fail(http.StatusBadRequest, badRequest, problem)
		return
	}
	x.answer(http.StatusOK, jsonType, `{"success":true}`)
}

// proxy passes a request to a model's child.
func (rt *router) proxy(x *exchange, path, model string, autoload bool, body []byte) {
	if model == "" {
		x.fail(http.StatusBadRequest, badRequest, "model name is missing from the request")
		return
	}
	rt.mu.Lock()
	rt.settle()
	c := rt.find(model)
	if c == nil {
		rt.mu.Unlock()
		x.fail(http.StatusBadRequest, badRequest, fmt.Sprintf("model '%s' not found", model))
		return
	}
	if c.e == nil && !autoload {
		rt.mu.Unlock()
		x.fail(http.StatusBadRequest, badRequest, "model is not loaded")
		return
	}
	if c.e == nil {
		rt.load(c, true)
	}
	if body != nil {
		// Proxied polls did not count as use when the real router evicted.
		rt.uses++
		c.lastUse = rt.uses
	}
	e := c.e
	rt.mu.Unlock()

	if e.loading() {
		if !autoload {
			rt.proxyLoading(x, e)
			return
		}
		for e.loading() {
			if !e.sleep(time.Duration(int64(e.o.LoadTime)-e.now()), nil) {
				panic(http.ErrAbortHandler)
			}
		}
		rt.mu.Lock()
		rt.settle()
		failed := c.e != e
		rt.mu.Unlock()
		if failed {
			message := fmt.Sprintf("model name=%s failed to load", model)
			rt.mu.Lock()
			rt.say(func(l *llamalog.Log, at time.Duration) {
				l.Exception(at, errorJSON(http.StatusInternalServerError, "server_error", message))
			})
			rt.mu.Unlock()
			x.fail(http.StatusInternalServerError, "server_error", message)
			return
		}
	}
	e.mu.Lock()
	e.advance() // it has said that it listens
	e.mu.Unlock()
	rt.mu.Lock()
	rt.say(func(l *llamalog.Log, at time.Duration) { l.Proxy(at, model, c.port) })
	rt.mu.Unlock()
	x.proxied = true
	rt.s.serve(x, e, path, body)
}

// proxyLoading answers as a child does that is starting: first its port is
// closed, then it says 503.
func (rt *router) proxyLoading(x *exchange, e *engine) {
	h := x.header()
	h.Set("X-Accel-Buffering", "no")
	h.Set("Content-Type", jsonType)
	h.Set("Connection", "close")
	status, body := http.StatusServiceUnavailable, `{"error":{"message":"Loading model","type":"unavailable_error","code":503}}`
	if e.now() < int64(e.o.LoadTime)/2 {
		status, body = http.StatusInternalServerError, "proxy error: Could not establish connection"
	}
	x.w.WriteHeader(status)
	x.flush()
	x.w.Write([]byte(body)) // an error means that the client left
}

func (rt *router) modelsJSON() string {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.settle()
	var b strings.Builder
	b.WriteString(`{"data":[`)
	for i, c := range rt.list {
		if i > 0 {
			b.WriteByte(',')
		}
		argsJSON, err := json.Marshal(c.args())
		if err != nil {
			panic(err) // strings always marshal
		}
		preset := fmt.Sprintf("[%s]\nmetrics = 1\nctx-size = %d\nmodel = %s\nparallel = %d\n\n", c.name, c.context(), modelPath(&c.o), c.o.Slots)
		state := c.status()
		fmt.Fprintf(&b, `{"id":%s,"aliases":[],"tags":[],"object":"model","owned_by":"llamacpp","created":%d,"status":{"value":%q,"args":%s,"preset":%s`,
			quote(c.name), rt.s.o.Now().Unix(), state, argsJSON, quote(preset))
		if c.failed {
			b.WriteString(`,"exit_code":1,"failed":true`)
		}
		fmt.Fprintf(&b, `},"architecture":{"input_modalities":["text"],"output_modalities":["text"]},"source":"models_dir","can_remove":false,"context_length":%d`, c.context())
		if state == "loaded" || state == "sleeping" {
			fmt.Fprintf(&b, `,"meta":%s`, c.e.metaJSON())
		}
		b.WriteByte('}')
	}
	b.WriteString(`],"object":"list"}`)
	return b.String()
}
