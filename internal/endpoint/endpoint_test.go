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
