// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package tinygguf

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWriteFile_SameModelGivesSameBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	require.NoError(t, Tiny.WriteFile(path))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	sum := sha256.Sum256(b)
	assert.Equal(t, "6efd86659bbed1f77ed4c6d9bda105b6f90c721c6f7fe16a5b250ee785ccab81", hex.EncodeToString(sum[:]))

	files, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	assert.Len(t, files, 1, "no temporary file may stay behind")
}

func TestWriteFile_BadShapeLeavesNoFile(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Model)
		want   string
	}{
		"heads do not divide": {func(m *Model) { m.Heads = 5 }, `model "tiny": embedding length 64 does not split into 5 heads of an even length`},
		"odd head length":     {func(m *Model) { m.Heads = 64 }, `model "tiny": embedding length 64 does not split into 64 heads of an even length`},
		"no layers":           {func(m *Model) { m.Layers = 0 }, `model "tiny": number of layers 0 has to be at least 1`},
	} {
		t.Run(name, func(t *testing.T) {
			m := Tiny
			c.change(&m)
			dir := t.TempDir()
			require.EqualError(t, m.WriteFile(filepath.Join(dir, "m.gguf")), c.want)
			files, err := os.ReadDir(dir)
			require.NoError(t, err)
			assert.Empty(t, files)
		})
	}
}

// The numbers are llama-server's own answers to POST /tokenize.
func TestTokenize_AgreesWithLlamaServer(t *testing.T) {
	assert.Equal(t, []int32{639, 337, 340, 832}, Tokenize("hello world", false))
	for _, w := range Words() {
		assert.Len(t, Tokenize(w, true), 2, w)
	}
}
