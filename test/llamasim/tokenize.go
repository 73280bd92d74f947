// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamasim

import (
	"encoding/json"
	"net/http"

	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

func (s *Server) tokenize(x *exchange, e *engine, body []byte) {
	if body == nil {
		body = readBody(x.r)
	}
	var q struct {
		Content    string
		AddSpecial bool `json:"add_special"`
	}
	if err := json.Unmarshal(body, &q); err != nil {
		x.reject(e, "[json.exception.parse_error.101] "+err.Error())
		return
	}
	if !e.active(true) {
		panic(http.ErrAbortHandler)
	}
	tokens := tinygguf.Tokenize(q.Content, q.AddSpecial)
	if tokens == nil {
		tokens = []int32{}
	}
	b, err := json.Marshal(map[string]any{"tokens": tokens})
	if err != nil {
		panic(err) // numbers always marshal
	}
	x.answer(http.StatusOK, jsonType, string(b))
}

func applyTemplate(x *exchange, e *engine, body []byte) {
	if body == nil {
		body = readBody(x.r)
	}
	var q request
	if err := json.Unmarshal(body, &q); err != nil {
		x.reject(e, "[json.exception.parse_error.101] "+err.Error())
		return
	}
	if q.Messages == nil {
		x.reject(e, "'messages' is required")
		return
	}
	b, err := json.Marshal(map[string]any{"prompt": q.template()})
	if err != nil {
		panic(err) // a text always marshals
	}
	x.answer(http.StatusOK, jsonType, string(b))
}
