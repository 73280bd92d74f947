// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenextension

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

type object = map[string]any

// description is openapi.yaml, with a record of the parts that answers have shown.
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
	if !slices.Contains(types, any(actual)) {
		wrong = append(wrong, fmt.Sprintf("%s is %s, not %v", at, actual, types))
	}
	return wrong
}

// properties returns the names of all properties that a schema describes.
func (d *description) properties(at string, schema object) (all []string) {
	schema, name := d.resolve(schema)
	if name != "" {
		at = name
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

func TestOpenAPI_HasEveryFieldThatIsAnswered(t *testing.T) {
	g := generate(t, quick, "  steady: {rate: 100, duration: 50ms, objective: ttft<1s, model: tiny, prompts: {repeat: true}}\n  long: {rate: 100, duration: 1h}\n  users: {users: 1, duration: 1h}\n")
	d := describe(t)
	// ask sends a request and checks the answer against the description.
	ask := func(status int, method, path, body string) object {
		t.Helper()
		w := g.ask(method, path, body)
		require.Equal(t, status, w.Code, "%s %s: %s", method, path, w.Body)
		template := path
		if rest, ok := strings.CutPrefix(path, "/api/v1/runs/"); ok {
			id, tail, _ := strings.Cut(rest, "/")
			template = strings.TrimSuffix(strings.Replace(path, id, "{id}", 1), "/")
			_ = tail
		}
		response, _ := d.resolve(d.at("paths", template, strings.ToLower(method), "responses", fmt.Sprint(status)))
		require.NotNil(t, response, "%s %s does not say that it answers %d", method, template, status)
		schema := response["content"].(object)["application/json"].(object)["schema"].(object)
		var answer object
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
		assert.Empty(t, d.mismatches("", schema, answer), "%s %s: %s", method, path, w.Body)
		return answer
	}
	begin := func(body string) string { return ask(http.StatusCreated, "POST", "/api/v1/runs", body)["id"].(string) }
	at := func(id string) string { return "/api/v1/runs/" + id }

	ask(200, "GET", "/api/v1/profiles", "")
	ask(404, "POST", "/api/v1/runs", `{"profile": "none"}`)
	ask(422, "POST", "/api/v1/runs", `{"profile": "long", "rate": -1}`)
	short, long, users := begin(`{"profile": "steady"}`), begin(`{"profile": "long", "seed": 5}`), begin(`{"profile": "users"}`)
	ask(409, "POST", "/api/v1/runs", `{"profile": "long"}`)
	g.await(long, func(r runJSON) bool { return r.Requests.OK > 0 })
	ask(200, "GET", at(long), "")
	ask(409, "GET", at(long)+"/results", "")
	ask(200, "PATCH", at(long), `{"rate": 5}`)
	ask(422, "PATCH", at(long), `{}`)
	ask(404, "PATCH", at("none"), `{"rate": 5}`)
	g.await(users, func(r runJSON) bool { return r.State == running })
	ask(409, "PATCH", at(users), `{"rate": 5}`)
	ask(202, "POST", at(users)+"/stop", "")
	g.await(users, isEnded)
	ask(409, "POST", at(users)+"/stop", "")
	ask(200, "GET", "/api/v1/runs", "")
	g.await(short, isEnded)
	ask(200, "GET", at(short)+"/results", "")

	// Properties of requests, and of a server with counters, are checked elsewhere.
	notAnswered := map[string]bool{
		"Report.reconciliation.prompt": true, "Report.reconciliation.predicted": true, "Report.reconciliation.cached": true,
		"Report.reconciliation.agrees": true, "Report.reconciliation.note": true,
		"Pair.client": true, "Pair.server": true, "Pair.resolution": true,
	}
	for name, schema := range d.at("components", "schemas") {
		if name == "Start" || name == "Change" {
			continue
		}
		for _, p := range d.properties(name, schema.(object)) {
			assert.True(t, d.seen[p] || notAnswered[p], "%s is described, but never answered", p)
		}
	}
}

func TestOpenAPI_HasEveryFieldThatIsTaken(t *testing.T) {
	d := describe(t)
	var start struct {
		Profile string `json:"profile"`
		Overrides
	}
	raw, err := json.Marshal(start)
	require.NoError(t, err)
	var fields object
	require.NoError(t, json.Unmarshal(raw, &fields))
	assert.ElementsMatch(t, slices.Collect(maps.Keys(fields)), slices.Collect(maps.Keys(d.at("components", "schemas", "Start", "properties"))))
}
