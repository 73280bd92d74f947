// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaserver // import "github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"

import (
	"errors"
	"path"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// Props are the properties of a server, or of one model of a router.
type Props struct {
	Router    bool
	Build     string // e.g. "b11669" or "b11669-Debian"
	ModelName string // the alias; where none is set, the file's name
	ModelPath string
	ModelType string // quantization
	Slots     int    // Unknown for a router and in builds that leave it out
	Context   int    // tokens of one slot; likewise
	Sleeping  bool
	// CanSleep reports whether the build can sleep at all.
	CanSleep bool
}

// sleepSafe is the first build whose /metrics answers for a sleeping server
// without waking it.
const sleepSafe = 10519

// MetricsWake reports whether a read of /metrics wakes such a server when it
// sleeps. A build that gives no number is taken for a new one.
func (p *Props) MetricsWake() bool {
	digits, _, _ := strings.Cut(strings.TrimPrefix(p.Build, "b"), "-")
	n, err := strconv.Atoi(digits)
	return p.CanSleep && err == nil && n < sleepSafe
}

var errNotProps = errors.New("not the properties of a llama-server: is endpoint its address?")

// ParseProps reads a body of /props: a JSON object. What it returns keeps nothing
// of the rest of the body alive.
func ParseProps(body []byte) (*Props, error) {
	if !gjson.ValidBytes(body) {
		return nil, errNotProps
	}
	v := gjson.ParseBytes(body)
	if !v.IsObject() {
		return nil, errNotProps
	}
	p := &Props{Slots: Unknown, Context: Unknown}
	alias := ""
	v.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "role":
			p.Router = v.Str == "router"
		case "build_info":
			p.Build = strings.Clone(v.Str)
		case "model_alias":
			alias = strings.Clone(v.Str)
		case "model_path":
			p.ModelPath = strings.Clone(v.Str)
		case "model_ftype":
			p.ModelType = strings.Clone(v.Str)
		case "total_slots":
			p.Slots = int(count(v))
		case "default_generation_settings":
			p.Context = int(count(v.Get("n_ctx")))
		case "is_sleeping":
			p.CanSleep = true
			p.Sleeping = v.Type == gjson.True
		}
		return true
	})
	p.ModelName = alias
	if alias == "" || alias == p.ModelPath { // the alias defaults to the path
		p.ModelName = baseName(p.ModelPath)
	}
	if p.Router {
		p.ModelName, p.ModelPath, p.Slots, p.Context = "", "", Unknown, Unknown
	}
	return p, nil
}

// baseName is the file's name in a path of any operating system.
func baseName(p string) string {
	if p == "" {
		return ""
	}
	return path.Base(strings.ReplaceAll(p, `\`, "/"))
}

// ModelState is the state of a router's model, as /models names it.
type ModelState string

const (
	ModelUnloaded ModelState = "unloaded"
	ModelLoading  ModelState = "loading"
	ModelLoaded   ModelState = "loaded"
	ModelSleeping ModelState = "sleeping"
	// ModelFailed is our name for an unloaded model whose last start failed.
	ModelFailed ModelState = "failed"
)

// Model is one of those that a router knows.
type Model struct {
	ID    string
	State ModelState // "" from a server that is no router
}

var errNotModels = errors.New("not a list of models: is endpoint llama-server's address?")

// ParseModels reads a body of /models: a JSON object with the list "data".
func ParseModels(body []byte) ([]Model, error) {
	if !gjson.ValidBytes(body) {
		return nil, errNotModels
	}
	data := gjson.GetBytes(body, "data")
	if !data.IsArray() {
		return nil, errNotModels
	}
	var models []Model
	data.ForEach(func(_, v gjson.Result) bool {
		m := Model{ID: strings.Clone(v.Get("id").String()), State: ModelState(strings.Clone(v.Get("status.value").String()))}
		if m.State == ModelUnloaded && v.Get("status.failed").Bool() {
			m.State = ModelFailed
		}
		if m.ID != "" {
			models = append(models, m)
		}
		return true
	})
	return models, nil
}

var errNotHealth = errors.New(`not {"status":"ok"}: is endpoint llama-server's address?`)

// checkHealth accepts what a llama-server that can take requests answers;
// older builds add fields and know "no slot available" besides "ok".
func checkHealth(body []byte) error {
	if !gjson.ValidBytes(body) {
		return errNotHealth
	}
	switch gjson.GetBytes(body, "status").String() {
	case "ok", "no slot available":
		return nil
	}
	return errNotHealth
}
