// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"bytes"
	"encoding/json"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWalker_StepsOverWhatIsNotRead(t *testing.T) {
	w := walker{text: []byte(` {"a":{"b":[1,"}",{"c":"\"]"}]} , "d" : [ 1 , {} , "x\\" ] ,"e":-1.5e3,"f":null,"g":"text","h":[],"i":{}} `)}
	var names []string
	elements := 0
	w.object(func(name []byte) {
		names = append(names, string(name))
		switch string(name) {
		case "d":
			w.array(func() { elements++ })
		case "e":
			assert.InDelta(t, -1500, w.number(0), 0)
		case "f":
			w.object(func([]byte) { t.Error("null has no members") })
		case "g":
			assert.Equal(t, "text", w.str())
		}
	})
	assert.True(t, w.ended())
	assert.Equal(t, []string{"a", "d", "e", "f", "g", "h", "i"}, names)
	assert.Equal(t, 3, elements)
}

func TestWalker_NoticesWhatIsCutOrNotJSON(t *testing.T) {
	for _, text := range []string{
		``, `{`, `{"`, `{"a`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":"`, `{"a":"x\"}`, `{"a":[1,2}`, `{"a":{"b":1}`, `{a:1}`, `{"a" 1}`,
		`{"a":1}}`, `{"a":1} x`, `{"a":1,}`, `{,}`, `{"a":}`,
	} {
		w := walker{text: []byte(text)}
		w.object(func(name []byte) {
			if string(name) == "a" {
				w.array(func() {})
			}
		})
		assert.False(t, w.ended(), text)
	}
}

// The walker agrees with encoding/json on valid JSON, and no input makes it panic.
func FuzzWalker(f *testing.F) {
	f.Add([]byte(`{"choices":[{"finish_reason":null,"index":0,"delta":{"content":" \"a\\"}}],"timings":{"prompt_ms":1.5}}`))
	f.Add([]byte(`{"a":[{"b":"}"},[],"\\\"",tru`))
	f.Add([]byte(`{"timings":`))
	f.Fuzz(func(t *testing.T, text []byte) {
		got := map[string]string{}
		var all func(w *walker, at string)
		all = func(w *walker, at string) {
			switch w.peek() {
			case '{':
				w.object(func(name []byte) { all(w, at+"."+string(name)) })
			case '[':
				n := 0
				w.array(func() { n++; all(w, at+"."+strconv.Itoa(n)) })
			default:
				got[at] = string(w.value())
			}
		}
		w := walker{text: text}
		all(&w, "")
		for _, e := range []Endpoint{Chat, Native, Responses, Messages} {
			var a answer
			a.reset(e)
			a.read(nil, text)
		}
		if !json.Valid(text) {
			return
		}
		assert.True(t, w.ended())
		want := map[string]string{}
		var walk func(raw json.RawMessage, at string)
		walk = func(raw json.RawMessage, at string) {
			raw = bytes.TrimSpace(raw)
			switch raw[0] {
			case '{':
				d := json.NewDecoder(bytes.NewReader(raw))
				_, err := d.Token()
				require.NoError(t, err)
				for d.More() {
					before := d.InputOffset()
					_, err := d.Token()
					require.NoError(t, err)
					name := raw[before:d.InputOffset()]
					name = name[bytes.IndexByte(name, '"')+1 : len(name)-1]
					var v json.RawMessage
					require.NoError(t, d.Decode(&v))
					walk(v, at+"."+string(name))
				}
			case '[':
				var list []json.RawMessage
				require.NoError(t, json.Unmarshal(raw, &list))
				for i, v := range list {
					walk(v, at+"."+strconv.Itoa(i+1))
				}
			default:
				want[at] = string(raw)
			}
		}
		walk(text, "")
		assert.Equal(t, want, got)
	})
}
