// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/pagetools"
)

// OpenAI's own clients understand the same of a server directly and through the proxy,
// error for error and event for event. Directly they need their retries: llama-server
// closes connections that it has announced to keep. The proxy does not.
func TestOfficialClients(t *testing.T) {
	t.Parallel()
	t.Run("Go", func(t *testing.T) {
		t.Parallel()
		program := filepath.Join(t.TempDir(), "openai")
		out, err := exec.CommandContext(t.Context(), "go", "build", "-C", filepath.Join("..", "..", "tools", "openai"), "-o", program, ".").CombinedOutput()
		require.NoError(t, err, "%s", out)
		sameAnswers(t, program)
	})
	t.Run("JavaScript", func(t *testing.T) {
		t.Parallel()
		node, err := pagetools.Find("node")
		require.NoError(t, err)
		installModules(t)
		sameAnswers(t, node, "openai.mjs")
	})
}

// installModules installs what package-lock.json lists, unless it is there.
func installModules(t testing.TB) {
	t.Helper()
	lock, err := os.Stat("package-lock.json")
	require.NoError(t, err)
	installed, err := os.Stat(filepath.Join("node_modules", ".package-lock.json"))
	if err == nil && !installed.ModTime().Before(lock.ModTime()) {
		return
	}
	npm, err := pagetools.Find("npm")
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), npm, "ci", "--no-audit", "--no-fund")
	cmd.Env = append(os.Environ(), "NO_UPDATE_NOTIFIER=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// sameAnswers has a client use servers directly and through the proxy. One of them makes
// embeddings, which the other refuses.
func sameAnswers(t *testing.T, client ...string) {
	t.Helper()
	for name, args := range map[string][]string{"completions": nil, "embeddings": {"--embeddings", "--pooling", "mean"}} {
		s := llamatest.Start(t, llamatest.Options{Args: args})
		p := start(t, s.URL(), settings{})
		ask := func(url string) map[string]any {
			cmd := exec.CommandContext(t.Context(), client[0], append(client[1:], url+"/v1")...)
			var problems strings.Builder
			cmd.Stderr = &problems
			out, err := cmd.Output()
			require.NoError(t, err, "%s", &problems)
			var answers map[string]any
			require.NoError(t, json.Unmarshal(out, &answers), "%s", out)
			for _, a := range answers {
				plain(a)
			}
			return answers
		}
		direct, through := ask(s.URL()), ask(p.URL())
		assert.Equal(t, direct, through, name)

		require.Greater(t, len(direct), 12)
		if name == "embeddings" {
			require.Contains(t, direct["embeddings"], "data")
			p.awaitTotal(1, "llamacpp.proxy.requests", outcome("completed"), operation("embeddings"))
			continue
		}
		// What the client has understood is what the proxy has seen.
		require.Contains(t, direct["chat"], "choices")
		require.Greater(t, len(direct["chat, streamed"].([]any)), 12)
		require.Len(t, direct["chat, left"], 4)
		require.Contains(t, direct["response"], "output")
		p.awaitTotal(2, "llamacpp.proxy.requests", outcome("rejected"))
		p.awaitTotal(1, "llamacpp.proxy.requests", outcome("cancelled"))
		p.awaitTotal(3, "llamacpp.proxy.requests", outcome("failed"), operation("embeddings")) // 501, which they ask again for
	}
}

// plain removes what differs from one answer to the next.
func plain(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			plain(e)
		}
	case map[string]any:
		for _, name := range []string{"id", "item_id", "created", "created_at", "completed_at", "timings"} {
			delete(v, name)
		}
		for _, e := range v {
			plain(e)
		}
	}
}
