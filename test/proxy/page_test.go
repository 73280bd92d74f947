// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
	"github.com/llamatelemetry/otelcol-llamacpp/test/pagetest"
)

// llama-server's own page works through the proxy as it does directly: a person sends
// a message, and sees the answer grow.
func TestServersPage(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{Model: medium})
	p := start(t, s.URL(), settings{})
	browser, err := pagetest.Launch(t.Context())
	require.NoError(t, err)
	t.Cleanup(browser.Close)

	visit := func(url string) (problems, requests []string) {
		tab, err := browser.Open(url+"/", pagetest.Look{})
		require.NoError(t, err)
		defer tab.Close()
		await := func(expression string) {
			t.Helper()
			require.NoError(t, tab.Await(expression, patience))
		}
		await(`document.querySelector("#user-in") && !document.querySelector("#user-btn").disabled && !document.querySelector("#chat-div").innerText.includes("enabled")`)
		require.NoError(t, tab.Click("#user-in"))
		require.NoError(t, tab.Type("one two three"))
		// The page asks port 8080 unless its settings say otherwise, and how long the
		// conversation was when it changed is noted.
		require.NoError(t, tab.Eval(`(() => {
			document.gMe.baseURL = location.origin;
			globalThis.alert = (text) => console.error(text);
			globalThis.lengths = [];
			const chat = document.querySelector("#chat-div");
			new MutationObserver(() => lengths.push(chat.innerText.length)).observe(chat, { childList: true, subtree: true, characterData: true });
			return true;
		})()`, nil))
		require.NoError(t, tab.Click("#user-btn"))
		await(`document.querySelector("#chat-div").innerText.includes("one two three")`)
		await(`new Set(lengths).size > 20`)
		// The answer has ended when another message can be sent.
		await(`!document.querySelector("#user-in").disabled && !document.querySelector("#user-btn").disabled && lengths.at(-1) > 200`)
		clean := func(list []string) []string {
			var out []string
			for _, text := range list {
				out = append(out, strings.ReplaceAll(text, url, "URL"))
			}
			return out
		}
		return clean(tab.Problems()), clean(tab.Requests())
	}
	directProblems, directRequests := visit(s.URL())
	began := time.Now()
	problems, requests := visit(p.URL())
	t.Logf("the page asks for %s, in %s; it complains of %s", requests, time.Since(began), problems)
	assert.Equal(t, directProblems, problems)
	assert.Equal(t, directRequests, requests)
	p.awaitTotal(1, "llamacpp.proxy.requests", outcome("completed"), operation("chat"))
	p.awaitTotal(1, "http.server.request.duration", otlpsink.With("http.route", "/"))
	p.awaitTotal(0, "llamacpp.proxy.answers.unread")
	assert.Zero(t, p.total("http.server.request.duration", otlpsink.With("http.response.status_code", "502")))
}
