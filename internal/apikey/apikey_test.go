// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package apikey

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCheck_SaysWhatIsWrongAndNotTheKey(t *testing.T) {
	for key, want := range map[string]string{
		"hush\n":       "has a line break in it",
		"hu\r\nsh":     "has a line break in it",
		" hush":        "has a space before or after it",
		"Bearer hush":  "begins with Bearer, which is sent with every key",
		"bearer  hush": "begins with bearer",
		"BEARER":       "begins with BEARER",
	} {
		err := Check(key)
		require.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), "hush")
	}
	for _, key := range []string{"", "hush", "Bearer-hush", "hush hush"} {
		assert.NoError(t, Check(key), key)
	}
}
