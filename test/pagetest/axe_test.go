// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package pagetest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/pagetools"
)

// axe is the code of axe-core, which is installed where it is missing or another
// version.
var axe = sync.OnceValues(func() (string, error) {
	lock, err := os.Stat("package-lock.json")
	if err != nil {
		return "", err
	}
	installed, err := os.Stat(filepath.Join("node_modules", ".package-lock.json"))
	if err != nil || installed.ModTime().Before(lock.ModTime()) {
		npm, err := pagetools.Find("npm")
		if err != nil {
			return "", err
		}
		cmd := exec.Command(npm, "ci", "--no-audit", "--no-fund")
		cmd.Env = append(os.Environ(), "NO_UPDATE_NOTIFIER=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			return string(out), err
		}
	}
	code, err := os.ReadFile(filepath.Join("node_modules", "axe-core", "axe.min.js"))
	return string(code), err
})

// finding is a rule of axe-core that is broken, and where.
type finding struct {
	ID, Help string
	Nodes    []string
}

// findings has axe-core look at a part of the page as it is.
func (v *view) findings(part string) []finding {
	v.t.Helper()
	code, err := axe()
	require.NoError(v.t, err, code)
	var there bool
	v.eval(&there, `typeof axe === "object"`)
	if !there {
		require.NoError(v.t, v.Eval(code+"; 1", nil))
	}
	var found []finding
	v.eval(&found, `axe.run($, { resultTypes: ["violations"] }).then((r) => r.violations.map((x) =>
		({ ID: x.id, Help: x.help, Nodes: x.nodes.slice(0, 4).map((n) => n.target.join(" ") + ": " + n.failureSummary) })))`, part)
	return found
}

// accessible checks that axe-core finds nothing.
func (v *view) accessible(state, part string) {
	v.t.Helper()
	for _, f := range v.findings(part) {
		assert.Fail(v.t, state+": "+f.ID+": "+f.Help, "%q", f.Nodes)
	}
}

func TestAxe_FindsNothing(t *testing.T) {
	t.Parallel()
	empty := startDashboard(t, settings{})
	some := startDashboard(t, settings{})
	startFeed(some, 60*time.Second, basics(server))
	require.NoError(t, some.traces.ConsumeTraces(t.Context(), requests(ended(time.Now())...)))
	for _, look := range []struct {
		name string
		Look
	}{
		{"light", Look{}},
		{"dark", Look{Dark: true}},
		{"light and narrow", Look{Width: 390, Height: 844, Mobile: true}},
		{"dark and narrow", Look{Width: 390, Height: 844, Mobile: true, Dark: true}},
	} {
		t.Run(look.name, func(t *testing.T) {
			v := open(t, empty.url, look.Look)
			v.await(Ready)
			v.accessible("empty", "html")

			v = open(t, some.url, look.Look)
			v.await(Ready)
			v.await(`document.querySelector("#requests tbody tr")`)
			v.accessible("with data", "html")
			for key, title := range map[string]string{"s": "Statistics", "?": "Keys", "c": "Compare"} {
				v.press(key)
				v.await(`document.querySelector("#dialog-title")?.innerText === $`, title)
				if title == "Compare" {
					v.await(`document.querySelector("#dialog [data-compare] canvas")`)
				}
				v.accessible(title, "#dialog")
				v.press(kb.Escape)
				v.await(`!document.querySelector("#dialog-title")`)
			}
			v.eval(nil, `document.querySelector("#requests tbody button").click()`)
			v.await(`document.querySelector("#dialog-title")?.innerText.startsWith("Request of task")`)
			v.accessible("a request", "#dialog")
		})
	}
}

func TestAxe_FindsNothingInAnyPanel(t *testing.T) {
	t.Parallel()
	d := startDashboard(t, settings{})
	startFeed(d, 60*time.Second, everything()...)
	v := open(t, d.url, Look{Height: 7000})
	v.await(Ready)
	v.accessible("everything", "html")
}

func TestAxe_FindsNothingInTheTableOfServers(t *testing.T) {
	t.Parallel()
	d := startDashboard(t, settings{})
	startFeed(d, 20*time.Second, basics("one:8080"), basics("two:8080"))
	for _, look := range []Look{{}, {Width: 390, Height: 844, Mobile: true, Dark: true}} {
		v := open(t, d.url, look)
		v.await(`document.querySelectorAll("#overview tbody tr").length === 2`)
		v.accessible("servers", "html")
	}
}

func TestAxe_FindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `<!doctype html><html lang="en"><title>x</title><link rel="icon" href="data:,">
			<main><h1>x</h1><p style="color: #bbb; background: #fff">pale</p><button></button></main>`)
	}))
	t.Cleanup(site.Close)
	var ids []string
	for _, f := range open(t, site.URL, Look{}).findings("html") {
		ids = append(ids, f.ID)
	}
	assert.ElementsMatch(t, []string{"button-name", "color-contrast"}, ids)
}
