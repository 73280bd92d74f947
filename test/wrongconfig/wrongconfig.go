// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package wrongconfig compares what a component says about wrong settings with
// a file that reads like a conversation: YAML as a user might write it, then a
// line "! …" for each thing that is wrong with it, then an empty line.
package wrongconfig // import "github.com/llamatelemetry/otelcol-llamacpp/test/wrongconfig"

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
)

const answer = "! "

// Test holds the file against what is said now. UPDATE=1 writes it anew.
func Test(t *testing.T, file string, newConfig func() any) {
	t.Helper()
	want, err := os.ReadFile(file)
	require.NoError(t, err)

	var got []string
	for block := range strings.SplitSeq(strings.TrimSpace(string(want)), "\n\n") {
		yaml, _, _ := strings.Cut(block, "\n"+answer)
		said := Explain(t, yaml, newConfig())
		assert.NotEmpty(t, said, "accepted:\n%s", yaml)
		for _, line := range said {
			yaml += "\n" + answer + line
		}
		got = append(got, yaml)
	}
	text := strings.Join(got, "\n\n") + "\n"
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	assert.Equal(t, string(want), text)
}

// Explain returns what is wrong with settings in YAML, a line each.
func Explain(tb testing.TB, yaml string, cfg any) []string {
	tb.Helper()
	retrieved, err := confmap.NewRetrievedFromYAML([]byte(yaml))
	require.NoError(tb, err)
	conf, err := retrieved.AsConf()
	require.NoError(tb, err, yaml)
	if err = conf.Unmarshal(cfg); err == nil {
		err = confmap.Validate(cfg)
	}
	if err == nil {
		return nil
	}
	// What the decoder puts in front of an error of Unmarshal.
	said := strings.TrimPrefix(err.Error(), "decoding failed due to the following error(s):\n\n")
	return strings.Split(strings.TrimPrefix(said, "'' "), "\n")
}
