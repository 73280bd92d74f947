// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenreceiver

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/llamatelemetry/otelcol-llamacpp/test/wrongconfig"
)

// Each case is what a user might write, with what the receiver says about it.
// UPDATE=1 go test -run WrongSettings ./receiver/loadgenreceiver writes what it
// says now.
func TestConfig_WrongSettingsSayWhatToWriteInstead(t *testing.T) {
	wrongconfig.Test(t, filepath.Join("testdata", "wrong.txt"), func() any { return newDefaultConfig() })
}

func TestConfig_TakesTheNameOfAnExtension(t *testing.T) {
	for yaml, want := range map[string]string{"extension: loadgen/other": "loadgen/other", "extension: loadgen": "loadgen"} {
		c := &Config{}
		assert.Empty(t, wrongconfig.Explain(t, yaml, c))
		assert.Equal(t, want, c.Extension.String())
	}
	c := &Config{}
	assert.Empty(t, wrongconfig.Explain(t, "{}", c))
	assert.Nil(t, c.Extension)
}

func TestConfig_AsksForExponentialHistogramsWithTheSection(t *testing.T) {
	for yaml, want := range map[string]int32{
		"{}":                           0,
		"histogram:":                   0,
		"histogram: {exponential: {}}": 160,
		"histogram: {exponential: {max_size: 9}}": 9,
	} {
		c := newDefaultConfig()
		assert.Empty(t, wrongconfig.Explain(t, yaml, c), yaml)
		e := c.Histogram.Exponential.Get()
		assert.Equal(t, want != 0, e != nil, yaml)
		if e != nil {
			assert.Equal(t, want, e.MaxSize, yaml)
		}
	}
}
