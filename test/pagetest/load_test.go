// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package pagetest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensiontest"

	"github.com/llamatelemetry/otelcol-llamacpp/loadgenextension"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

// withExtension is a host that has an extension.
type withExtension struct {
	component.Host
	extensions map[component.ID]component.Component
}

func (h withExtension) GetExtensions() map[component.ID]component.Component { return h.extensions }

// startLoad makes a load generator for a simulated server, and a dashboard that has
// it and gets its metrics and its traces.
func startLoad(t *testing.T) *dashboard {
	t.Helper()
	target := llamasim.Start(t, llamasim.Options{TokensPerSecond: 400})
	f := loadgenextension.NewFactory()
	cfg := f.CreateDefaultConfig()
	retrieved, err := confmap.NewRetrievedFromYAML(fmt.Appendf(nil, `
endpoint: localhost:%d
target: {endpoint: %q}
metrics_flush_interval: 500ms
histogram: {exponential: {}}
profiles:
  steady: {rate: 4, duration: 10m, max_tokens: {min: 5, max: 20}, objective: ttft<5s}
  users: {users: 2, duration: 2s, max_tokens: {min: 5, max: 10}}
`, freeport.For(t), target.URL()))
	require.NoError(t, err)
	conf, err := retrieved.AsConf()
	require.NoError(t, err)
	require.NoError(t, conf.Unmarshal(cfg))
	e, err := f.Create(t.Context(), extensiontest.NewNopSettings(f.Type()), cfg)
	require.NoError(t, err)
	load := e.(*loadgenextension.Extension)
	d := startDashboard(t, settings{host: withExtension{
		componenttest.NewNopHost(), map[component.ID]component.Component{component.NewID(f.Type()): load},
	}})
	load.AttachMetrics(d.metrics)
	load.AttachTraces(d.traces)
	require.NoError(t, load.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(func() { assert.NoError(t, load.Shutdown(context.Background())) })
	require.NoError(t, e.(interface {
		extension.Extension
		Ready() error
	}).Ready())
	startFeed(d, 30*time.Second, basics(strings.TrimPrefix(target.URL(), "http://")))
	return d
}

// write replaces what a field of a form says, as a person does.
func (v *view) write(selector, text string) {
	v.t.Helper()
	v.await(`document.querySelector($)`, selector)
	v.eval(nil, `(() => { const e = document.querySelector($); e.focus(); e.select(); })()`, selector)
	v.press(text)
	v.await(`document.querySelector($).value === $`, selector, text)
}

func TestLoad_IsStartedTurnedAndStoppedOnThePage(t *testing.T) {
	t.Parallel()
	d := startLoad(t)
	v := open(t, d.url, Look{Height: 1600})
	v.drawn()
	v.clickText("header button", "load")
	v.await(`document.querySelector("#dialog form select option")`)
	v.write(`#dialog input[name="rate"]`, "8")
	v.clickText("#dialog button", "Start")
	v.await(`document.querySelector("#dialog .run, #dialog .problem")`)
	require.Empty(t, v.text("#dialog .problem"))
	v.await(`document.querySelector("#dialog .run h3")?.innerText.includes("running")`)
	v.await(`document.querySelector("#dialog .figures").innerText.includes("8 req/s") || document.querySelector("#dialog .figures").innerText.includes("8.00 req/s")`)
	v.await(`Number(document.querySelector("#dialog .figures").innerText.match(/(\d+) of \d+ well/)[1]) >= 4`)
	v.keep("load-control")
	v.write(`#dialog .run input[name="rate"]`, "30")
	v.clickText("#dialog button", "Change the rate")
	v.await(`document.querySelector("#dialog .figures").innerText.includes("30.0 req/s") || document.querySelector("#dialog .figures").innerText.includes("30 req/s")`)
	v.await(`Number(document.querySelector("#dialog .figures").innerText.match(/(\d+) of \d+ well/)[1]) >= 40`)
	// Behind the dialog, the charts of the run are drawn, with its beginning marked.
	v.await(`[...llamaPage.live.panels.get("load-rate").values()].some((s) => s.name === "target" && s.values.includes(30))`)
	v.await(`[...llamaPage.live.panels.get("load-rate").values()].some((s) => s.name === "achieved" && Math.max(...s.values) > 10)`)
	v.await(`llamaPage.live.annotations.some((a) => a.kind === "load")`)
	v.await(`llamaPage.live.requests.some((r) => r.client && r.outcome === "completed")`)

	v.clickText("#dialog button", "Stop")
	v.await(`[...document.querySelectorAll("#dialog tbody tr")].some((tr) => tr.innerText.includes("stopped on request"))`)
	v.clickText("#dialog tbody button", "report")
	v.await(`document.querySelector("#dialog .run h3")?.innerText.startsWith("Report of steady")`)
	report := v.text("#dialog .run")
	for _, part := range []string{"time to first token", "whole request", "P95"} {
		assert.Contains(t, report, part)
	}
	v.keep("load-report")

	// A second one, to compare.
	v.eval(nil, `document.querySelector('#dialog select[name="profile"]').value = "users"`)
	v.clickText("#dialog button", "Start")
	v.await(`document.querySelectorAll("#dialog input[type=checkbox]").length === 2`)
	v.eval(nil, `document.querySelectorAll("#dialog input[type=checkbox]").forEach((c) => c.click())`)
	v.clickText("#dialog button", "Compare the two that are marked")
	v.await(`[...document.querySelectorAll("#dialog .run h3")].some((h) => h.innerText === "A and B")`)
	v.keep("load-compared")
}
