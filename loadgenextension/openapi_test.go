// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenextension

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/scriptedserver"
)

type object = map[string]any

// description is openapi.yaml, with a record of the parts that answers have shown:
// properties, each also with the type of its value, and the statuses of operations.
type description struct {
	object
	seen map[string]bool
}

func describe(t *testing.T) *description {
	t.Helper()
	d := &description{seen: map[string]bool{}}
	require.NoError(t, yaml.Unmarshal(openAPI, &d.object))
	return d
}

func (d *description) at(path ...string) object {
	o := d.object
	for _, p := range path {
		o, _ = o[p].(object)
	}
	return o
}

func (d *description) resolve(o object) (resolved object, name string) {
	if ref, ok := o["$ref"].(string); ok {
		path := strings.Split(strings.TrimPrefix(ref, "#/"), "/")
		return d.at(path...), path[len(path)-1]
	}
	return o, ""
}

// mismatches returns the places where a value does not match its schema.
func (d *description) mismatches(at string, schema object, value any) (wrong []string) {
	schema, name := d.resolve(schema)
	if name != "" {
		at = name
	}
	types, _ := schema["type"].([]any)
	if one, ok := schema["type"].(string); ok {
		types = []any{one}
	}
	kind := map[bool]string{true: "integer", false: "number"}
	actual := "null"
	switch v := value.(type) {
	case bool:
		actual = "boolean"
	case string:
		actual = "string"
	case float64:
		actual = kind[v == float64(int64(v)) && !slices.Contains(types, any("number"))]
	case []any:
		actual = "array"
		items, _ := schema["items"].(object)
		for _, one := range v {
			wrong = append(wrong, d.mismatches(at+"[]", items, one)...)
		}
	case object:
		actual = "object"
		properties, _ := schema["properties"].(object)
		for _, key := range slices.Sorted(maps.Keys(v)) {
			property, ok := properties[key].(object)
			if !ok {
				if property, ok = schema["additionalProperties"].(object); !ok {
					wrong = append(wrong, at+"."+key+" is not described")
					continue
				}
			}
			d.seen[at+"."+key] = true
			wrong = append(wrong, d.mismatches(at+"."+key, property, v[key])...)
		}
		required, _ := schema["required"].([]any)
		for _, key := range required {
			if _, ok := v[key.(string)]; !ok {
				wrong = append(wrong, fmt.Sprintf("%s.%s is required, and missing", at, key))
			}
		}
	}
	d.seen[at+" "+actual] = true
	if !slices.Contains(types, any(actual)) {
		wrong = append(wrong, fmt.Sprintf("%s is %s, not %v", at, actual, types))
	}
	return wrong
}

// properties returns the names of all properties that a schema describes, and of
// those that may be null also "name null" and "name type".
func (d *description) properties(at string, schema object) (all []string) {
	schema, name := d.resolve(schema)
	if name != "" {
		at = name
	}
	if types, ok := schema["type"].([]any); ok {
		for _, t := range types {
			all = append(all, fmt.Sprint(at, " ", t))
		}
	}
	properties, _ := schema["properties"].(object)
	for key, p := range properties {
		all = append(all, at+"."+key)
		all = append(all, d.properties(at+"."+key, p.(object))...)
	}
	if items, ok := schema["items"].(object); ok {
		all = append(all, d.properties(at+"[]", items)...)
	}
	return all
}

func TestOpenAPI_HasEveryRouteAndNoOther(t *testing.T) {
	g := generate(t, quick, "  steady:\n")
	var served, described []string
	for _, r := range g.routes() {
		served = append(served, r.method+" "+r.path)
	}
	for path, operations := range describe(t).at("paths") {
		for method := range operations.(object) {
			if method != "parameters" {
				described = append(described, strings.ToUpper(method)+" "+path)
			}
		}
	}
	assert.ElementsMatch(t, served, described)
	assert.Equal(t, string(openAPI), g.ask("GET", "/openapi.yaml", "").Body.String())
}

// caller asks the API, and holds each answer against the description.
type caller struct {
	*generator
	d *description
}

// template returns a path as the description has it: with {id} for the run's id.
func template(path string) string {
	rest, ok := strings.CutPrefix(path, "/api/v1/runs/")
	if !ok {
		return path
	}
	id, _, _ := strings.Cut(rest, "/")
	return strings.Replace(path, id, "{id}", 1)
}

func (c caller) ask(status int, method, path, body string, edit ...func(*http.Request)) object {
	c.t.Helper()
	w := c.generator.ask(method, path, body, edit...)
	require.Equal(c.t, status, w.Code, "%s %s: %s", method, path, w.Body)
	operation := method + " " + template(path)
	response, _ := c.d.resolve(c.d.at("paths", template(path), strings.ToLower(method), "responses", fmt.Sprint(status)))
	require.NotNil(c.t, response, "%s does not say that it answers %d", operation, status)
	c.d.seen[fmt.Sprint(operation, " ", status)] = true

	kind, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	content, ok := response["content"].(object)[kind].(object)
	require.True(c.t, ok, "%s does not say that it answers %d in %s", operation, status, kind)
	if kind != "application/json" {
		return nil
	}
	var answer object
	require.NoError(c.t, json.Unmarshal(w.Body.Bytes(), &answer))
	assert.Empty(c.t, c.d.mismatches("", content["schema"].(object), answer), "%s: %s", operation, w.Body)
	return answer
}

func (c caller) begin(body string) string {
	c.t.Helper()
	return c.ask(http.StatusCreated, "POST", "/api/v1/runs", body)["id"].(string)
}

// events reads the stream of a run to its end, and holds each event against the
// description.
func (c caller) events(id string) {
	c.t.Helper()
	path := "/api/v1/runs/" + id + "/events"
	w := c.generator.ask("GET", path, "")
	require.Equal(c.t, 200, w.Code)
	c.d.seen["GET "+template(path)+" 200"] = true
	described := c.d.at("paths", template(path), "get", "responses", "200", "content", "text/event-stream", "x-events")
	require.Equal(c.t, "text/event-stream", w.Header().Get("Content-Type"))
	for event := range strings.SplitSeq(strings.TrimSuffix(w.Body.String(), "\n\n"), "\n\n") {
		name, data, ok := strings.Cut(strings.TrimPrefix(event, "event: "), "\ndata: ")
		require.True(c.t, ok, event)
		schema, ok := described[name].(object)
		require.True(c.t, ok, "no event %q is described", name)
		c.d.seen["event "+name] = true
		var value object
		require.NoError(c.t, json.Unmarshal([]byte(data), &value))
		assert.Empty(c.t, c.d.mismatches("", schema, value), event)
	}
}

// gpus starts a page of metrics of a GPU that uses 100 W.
func gpus(t *testing.T) (url string) {
	began := time.Now()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "hw_energy_joules_total{hw_type=\"gpu\"} %g\n", 100*time.Since(began).Seconds())
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// Every status, property and event that is described is answered somewhere here,
// and nothing else is.
func TestOpenAPI_IsWhatIsAnswered(t *testing.T) {
	d := describe(t)
	sim := llamasim.Start(t, llamasim.Options{TokensPerSecond: 5000, PromptTokensPerSecond: 1e6})
	// The simulator has counters and reports what was cached, the other server does not.
	// Of the other one GPU metrics are known, but not all of its tokens.
	c := caller{generateFor(t, sim.URL(), "  steady: {rate: 100, duration: 200ms, objective: ttft<1s, model: tiny, cancel: {share: 0.5, after: 1}, prompts: {repeat: true}}\n  long: {rate: 100, duration: 1h}\n  users: {users: 1, duration: 1h}\n"), d}
	plain := caller{generate(t, quick, "  few: {rate: 100, duration: 200ms, cancel: {share: 0.5, after: 1}}\n  none: {replay: {times: "+timesFile(t, "0.5")+"}, duration: 10ms}\n  talk: {rate: 50, duration: 300ms, turns: {min: 2, max: 2}, prompts: {no_cache: true}}\ngpu_metrics: {endpoint: "+gpus(t)+"}\n"), d}
	// This one refuses the second turn of a conversation.
	curt := caller{generate(t, func(n int, r *http.Request, body []byte) scriptedserver.Script {
		if bytes.Contains(body, []byte(`"assistant"`)) {
			return scriptedserver.JSON(503, "{}")
		}
		return quick(n, r, body)
	}, "  talk: {rate: 50, duration: 300ms, turns: {min: 2, max: 2}}\n"), d}
	at := func(id string) string { return "/api/v1/runs/" + id }
	elsewhere := func(r *http.Request) { r.Host = "evil.example" }

	c.ask(200, "GET", "/openapi.yaml", "")
	c.ask(200, "GET", "/api/v1/profiles", "")
	c.ask(404, "POST", "/api/v1/runs", `{"profile": "none"}`)
	c.ask(422, "POST", "/api/v1/runs", `{"profile": "long", "rate": -1}`)
	short, long, users := c.begin(`{"profile": "steady"}`), c.begin(`{"profile": "long", "seed": 5}`), c.begin(`{"profile": "users"}`)
	c.ask(409, "POST", "/api/v1/runs", `{"profile": "long"}`)
	c.await(long, func(r runJSON) bool { return r.Requests.OK > 0 })
	c.ask(200, "GET", at(long), "")
	c.ask(409, "GET", at(long)+"/results", "")
	c.ask(409, "GET", at(long)+"/report", "")
	c.ask(200, "PATCH", at(long), `{"rate": 5}`)
	c.ask(422, "PATCH", at(long), `{}`)
	c.await(users, func(r runJSON) bool { return r.State == running })
	c.ask(409, "PATCH", at(users), `{"rate": 5}`)
	c.ask(202, "POST", at(users)+"/stop", "")
	c.await(users, isEnded)
	c.ask(409, "POST", at(users)+"/stop", "")
	c.ask(200, "GET", "/api/v1/runs", "")
	c.events(short)
	c.ask(200, "GET", at(short), "")
	c.ask(200, "GET", at(short)+"/results", "")
	c.ask(200, "GET", at(short)+"/report", "")
	for _, run := range []struct {
		caller
		profile string
	}{{plain, "few"}, {plain, "none"}, {plain, "talk"}, {curt, "talk"}} {
		id := run.begin(`{"profile": "` + run.profile + `"}`)
		run.events(id)
		run.ask(200, "GET", at(id)+"/results", "")
	}
	for _, r := range c.routes() {
		path := strings.Replace(r.path, "{id}", "none", 1)
		if path != r.path {
			c.ask(404, r.method, path, `{"rate": 5}`)
		}
		c.ask(403, r.method, path, `{"rate": 5}`, elsewhere)
	}
	for range 1000 {
		if c.generator.ask("PATCH", at(long), `{"rate": 5}`).Code != 200 {
			break
		}
	}
	c.ask(429, "PATCH", at(long), `{"rate": 5}`)
	require.NoError(t, c.NotReady())
	c.ask(503, "POST", "/api/v1/runs", `{"profile": "steady"}`)

	for path, operations := range d.at("paths") {
		for method, operation := range operations.(object) {
			if method == "parameters" {
				continue
			}
			for status := range operation.(object)["responses"].(object) {
				seen := strings.ToUpper(method) + " " + path + " " + status
				assert.True(t, d.seen[seen], "%s is described, but never answered", seen)
			}
		}
	}
	for name := range d.at("paths", "/api/v1/runs/{id}/events", "get", "responses", "200", "content", "text/event-stream", "x-events") {
		assert.True(t, d.seen["event "+name], "event %s is described, but never sent", name)
	}
	for name, schema := range d.at("components", "schemas") {
		if name == "Start" || name == "Change" { // bodies of requests
			continue
		}
		for _, p := range d.properties(name, schema.(object)) {
			assert.True(t, d.seen[p], "%s is described, but never answered", p)
		}
	}
}

// taken returns the fields of a request's body, each with its type in JSON.
func taken(of reflect.Type) object {
	fields := object{}
	for f := range of.Fields() {
		if f.Anonymous {
			maps.Copy(fields, taken(f.Type))
			continue
		}
		t := f.Type
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		kind := map[reflect.Kind]string{reflect.String: "string", reflect.Float64: "number", reflect.Int: "integer", reflect.Uint64: "integer"}[t.Kind()]
		fields[f.Tag.Get("json")] = kind
	}
	return fields
}

func TestOpenAPI_IsWhatIsTaken(t *testing.T) {
	d := describe(t)
	for name, of := range map[string]reflect.Type{"Start": reflect.TypeFor[startJSON](), "Change": reflect.TypeFor[changeJSON]()} {
		described := object{}
		for property, schema := range d.at("components", "schemas", name, "properties") {
			described[property] = schema.(object)["type"]
		}
		assert.Equal(t, taken(of), described, name)
	}

	// What is required has to be there, and anything else is refused.
	g := generate(t, quick, "  steady: {rate: 1, duration: 1h}\n")
	for _, body := range []string{`{}`, `{"rate": 1}`} {
		assert.Equal(t, http.StatusNotFound, g.ask("POST", "/api/v1/runs", body).Code, "profile is required")
	}
	all := `{"profile": "steady", "rate": 2, "duration": 60, "warm_up": 1, "seed": 3, "model": "tiny"}`
	r := g.run(http.StatusCreated, "POST", "/api/v1/runs", all)
	g.await(r.ID, func(r runJSON) bool { return r.State == running })
	at := "/api/v1/runs/" + r.ID
	for body, want := range map[string]int{
		`{"rate": 5, "over": 60}`:   http.StatusOK,
		`{"over": 60}`:              http.StatusUnprocessableEntity,
		`{"rate": 5, "over": -1}`:   http.StatusUnprocessableEntity,
		`{"rate": 5, "over": 1e99}`: http.StatusUnprocessableEntity,
		`{"rate": 5, "users": 5}`:   http.StatusUnprocessableEntity,
		`{"rate": "5"}`:             http.StatusUnprocessableEntity,
	} {
		assert.Equal(t, want, g.ask("PATCH", at, body).Code, body)
	}
	for _, schema := range []string{"Start", "Change"} {
		assert.Equal(t, false, d.at("components", "schemas", schema)["additionalProperties"], schema)
	}
}
