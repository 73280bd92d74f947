// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

func TestSleep_IsSeenAndNeitherPreventedNorEnded(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{Args: []string{"--sleep-idle-seconds", "2"}})
	c := watch(t, s.URL())
	c.awaitState("ok")
	users := clientsOf(t, s)
	users.send(llamatest.Request{PromptWords: 20, MaxTokens: 100, Stream: true})
	checkTotals(t, c, users)

	c.awaitState("sleeping")
	// Longer than it takes the server to fall asleep again, had it been woken.
	c.awaitScrapes(5)
	require.Equal(t, "sleeping", c.state())
	assert.Contains(t, get(t, s.URL()+"/props"), `"is_sleeping":true`)
	assert.Equal(t, 0, wakings(t, s))
	c.await(100, "llamacpp.tokens.predicted")

	users.send(llamatest.Request{PromptWords: 20, Seed: 1, MaxTokens: 50, Stream: true})
	c.awaitState("ok")
	checkTotals(t, c, users)
	c.awaitState("sleeping")
	assert.Equal(t, 1, wakings(t, s))
	assert.Len(t, c.Points(predictedTokens).Starts(), 1, "the same process")
	assert.Len(t, c.Points(decodedTokens).Starts(), 1)
	c.awaitStates("llamacpp", "ok", "sleeping", "ok", "sleeping")
	assert.Empty(t, c.complaints("llamacpp"))
}

// wakings is how often the server has been woken.
func wakings(t *testing.T, s *llamatest.Server) int {
	t.Helper()
	log, err := os.ReadFile(s.Log())
	require.NoError(t, err)
	return strings.Count(string(log), "server is exiting sleeping state")
}
