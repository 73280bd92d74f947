// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package pagetest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// What all tests rely on: what a page must not do is noticed.
func TestTab_NoticesWhatAPageMustNotDo(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(other.Close)
	for name, script := range map[string]string{
		"exception": `setTimeout(() => { throw new Error("of the test") })`,
		"console":   `console.error("of the test")`,
		"log":       `fetch("/missing")`,
		"policy":    `document.body.setAttribute("style", "color: red")`,
		"request":   `fetch("` + other.URL + `/", { mode: "no-cors" }).catch(() => {})`,
	} {
		t.Run(name, func(t *testing.T) {
			site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/":
					w.Header().Set("Content-Security-Policy", "default-src 'self'; connect-src *; img-src data:")
					_, _ = io.WriteString(w, `<!doctype html><link rel="icon" href="data:,"><body><script src="script.js"></script>`)
				case "/script.js":
					w.Header().Set("Content-Type", "text/javascript")
					_, _ = io.WriteString(w, script)
				default:
					http.NotFound(w, r)
				}
			}))
			t.Cleanup(site.Close)
			tab, err := browserOf(t).Open(site.URL, Look{})
			require.NoError(t, err)
			t.Cleanup(tab.Close)
			require.Eventually(t, func() bool {
				for _, p := range tab.Problems() {
					if len(p) > len(name) && p[:len(name)+1] == name+":" {
						return true
					}
				}
				return false
			}, patience, pollEvery, "%s", script)
		})
	}
}
