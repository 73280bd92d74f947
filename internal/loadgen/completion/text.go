// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"strings"

	"github.com/tidwall/gjson"
)

// textOf returns the text of the answer in an event of a stream or in a whole body.
func textOf(e Endpoint, data []byte) string {
	v := gjson.ParseBytes(data)
	switch e {
	case Chat:
		return v.Get("choices.0.delta.content").Str + v.Get("choices.0.message.content").Str
	case Completions:
		return v.Get("choices.0.text").Str
	case Native:
		return v.Get("content").Str
	case Responses:
		if v.Get("type").Str == "response.output_text.delta" {
			return v.Get("delta").Str
		}
		return textParts(v.Get(`output.#(type=="message")#.content|@flatten`))
	case Messages:
		return v.Get("delta.text").Str + textParts(v.Get("content"))
	}
	return ""
}

func textParts(parts gjson.Result) string {
	var b strings.Builder
	for _, part := range parts.Array() {
		b.WriteString(part.Get("text").Str)
	}
	return b.String()
}
