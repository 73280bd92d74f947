// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParse_SaysWhatIsWrong(t *testing.T) {
	for in, want := range map[string]string{
		"localhost:8080":          `scheme "localhost": want http://host:port`,
		"ftp://h":                 `scheme "ftp": want http://host:port`,
		"http://":                 "no host: want http://host:port",
		"http://h?x=1":            "query or fragment: want http://host:port",
		"http://u:secret@h:80:80": "want http://host:port",
		"http://h:99999":          "port 99999: want http://host:port",
	} {
		_, err := Parse(in)
		require.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), "secret")
	}
}

func TestParse_WantsTheBaseURL(t *testing.T) {
	for in, want := range map[string]string{
		"http://host:8080/v1":                         "ends in /v1, which is a page of the server: want http://host:8080",
		"http://host:8080/v1/":                        "ends in /v1, which is a page of the server: want http://host:8080",
		"https://u:secret@h/llama/v1":                 "ends in /v1, which is a page of the server: want https://h/llama",
		"http://host:8080/metrics":                    "ends in /metrics, which is a page of the server: want http://host:8080",
		"http://host:8080/v1/chat/completions":        "ends in /v1/chat/completions, which is a page of the server: want http://host:8080",
		"http://host:8080/llama%2F1/chat/completions": "ends in /chat/completions, which is a page of the server: want http://host:8080/llama/1",
		"http://host:8080/v1/models":                  "ends in /v1/models, which is a page of the server: want http://host:8080",
		"http://host:8080/slots":                      "ends in /slots, ",
		"http://host:8080/health":                     "ends in /health, ",
		"http://host:8080/v1/health":                  "ends in /v1/health, ",
		"http://host:8080/props":                      "ends in /props, ",
		"http://host:8080/completion":                 "ends in /completion, ",
		"http://host:8080/v1/completions":             "ends in /v1/completions, ",
		"http://host:8080/v1/embeddings":              "ends in /v1/embeddings, ",
	} {
		_, err := Parse(in)
		require.ErrorContains(t, err, want, in)
		assert.NotContains(t, err.Error(), "secret")
	}
	// A prefix (--api-prefix, or a proxy's path) may be called anything else.
	for _, in := range []string{
		"http://h/llama", "http://h/v1/llama", "http://h/models", "http://h/api/v2", "http://h/my-metrics",
		"http://h/metrics/llama", "http://h/gpu/v10", "http://metrics:8080", "http://v1",
	} {
		_, err := Parse(in)
		assert.NoError(t, err, in)
	}
}

func TestParse_NamesTheServer(t *testing.T) {
	for in, want := range map[string]Endpoint{
		"https://h/llama/":      {Address: "h", Port: 443, Instance: "h:443/llama"},
		"http://localhost:8080": {Address: "localhost", Port: 8080, Instance: "localhost:8080"},
		"http://[::1]:8080/":    {Address: "::1", Port: 8080, Instance: "[::1]:8080"},
		"http://10.0.0.1":       {Address: "10.0.0.1", Port: 80, Instance: "10.0.0.1:80"},
	} {
		got, err := Parse(in)
		require.NoError(t, err)
		want.URL = got.URL
		assert.Equal(t, want, got)
	}
	got, err := Parse("https://h/llama/")
	require.NoError(t, err)
	assert.Equal(t, "https://h/llama", got.URL.String())
}
