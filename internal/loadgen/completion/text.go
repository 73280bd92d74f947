// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"strings"

	"github.com/tidwall/gjson"
)

// textOf returns the text of the answer in an event of a stream.
func textOf(e Endpoint, data []byte) string {
	v := gjson.ParseBytes(data)
	switch e {
	case Chat:
		return v.Get("choices.0.delta.content").Str
	case Completions:
		return v.Get("choices.0.text").Str
	case Native:
		return v.Get("content").Str
	case Responses:
		if v.Get("type").Str == "response.output_text.delta" {
			return v.Get("delta").Str
		}
	case Messages:
		return v.Get("delta.text").Str
	}
	return ""
}

// wholeText returns the text of an answer that is not streamed.
func wholeText(e Endpoint, body []byte) string {
	v := gjson.ParseBytes(body)
	var b strings.Builder
	parts := func(v gjson.Result) {
		v.ForEach(func(_, part gjson.Result) bool {
			b.WriteString(part.Get("text").Str)
			return true
		})
	}
	switch e {
	case Chat:
		return v.Get("choices.0.message.content").Str
	case Completions:
		return v.Get("choices.0.text").Str
	case Native:
		return v.Get("content").Str
	case Responses:
		v.Get("output").ForEach(func(_, item gjson.Result) bool {
			if item.Get("type").Str == "message" {
				parts(item.Get("content"))
			}
			return true
		})
	case Messages:
		parts(v.Get("content"))
	}
	return b.String()
}
