// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFile_WrittenIsAsLongBeforeItsEndAsTheClocksSay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.log")
	changed := time.Unix(1_800_000_000, 0)
	text := strings.Repeat("0.00.000.001 I srv    operator(): an older line\n", 200) +
		"0.09.000.000 I srv    operator(): the server\n" +
		"[37117] 0.03.000.000 I srv    operator(): its child\n" +
		"0.10.000.000 I srv    opera"
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	require.NoError(t, os.Chtimes(path, changed, changed))
	f := files{}.get(path)
	// What is written later does not count: the time is that of what was there.
	require.NoError(t, os.WriteFile(path, []byte(text+"tor(): more\n0.20.000.000 I srv    operator(): more\n"), 0o600))

	for name, test := range map[string]struct {
		child       int
		clock, want time.Duration
	}{
		"the last line":                   {0, 10 * time.Second, 0},
		"a line before":                   {0, 4 * time.Second, -6 * time.Second},
		"of the child":                    {37117, time.Second, -2 * time.Second},
		"of another child":                {37118, time.Second, 0},
		"of a process that began earlier": {0, time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, changed.Add(test.want), f.written(test.child, test.clock))
		})
	}
}

func TestFile_WrittenWhereItsEndCannotBeRead(t *testing.T) {
	changed := time.Unix(1_800_000_000, 0)
	f := &file{path: filepath.Join(t.TempDir(), "gone.log"), size: 100, modified: changed}
	assert.Equal(t, changed, f.written(0, time.Second))
}
