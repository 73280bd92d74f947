// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package pagetest

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// basics is a server with little to draw.
func basics(instance string) source {
	return source{
		service: "llama-server", instance: instance,
		attributes: []string{"service.version=b11669", "llamacpp.model.name=qwen2.5-3b-instruct-q4_k_m"},
		metrics: []metric{
			{"llamacpp_server_status", gauge, 1, []string{"llamacpp_server_state=ok"}},
			{"llamacpp_slots_tokens_decoded_total", counter, 187, nil},
			{"llamacpp_requests_total", counter, 2, []string{"llamacpp_request_outcome=completed"}},
			{"llamacpp_requests_deferred", gauge, 3, nil},
			{"llamacpp_requests_processing", gauge, 2, nil},
			{"llamacpp_slots", gauge, 2, []string{"llamacpp_slot_state=generating"}},
			{"llamacpp_slots", gauge, 0, []string{"llamacpp_slot_state=prompt"}},
			{"llamacpp_slots_limit", gauge, 4, nil},
			{"llamacpp_context_utilization_ratio", gauge, 0.41, nil},
			{"gen_ai_server_request_duration_seconds", histogram, 8, nil},
		},
	}
}

// plots are all charts that are drawn.
const plots = `[...document.querySelectorAll(".panel")].map((p) => llamaPage.panels.chart(p.dataset.panel)?.plot).filter(Boolean)`

// link is what the page says of its connection.
const link = `document.querySelector(".link")?.innerText`

// drawn waits until the page shows the basics.
func (v *view) drawn() {
	v.t.Helper()
	v.await(plots + `.length >= 4 && ` + link + ` === "live"`)
}

// spot is a place in the queue's chart, in the window's pixels, at a share of its width.
func (v *view) spot(x float64) (left, top float64) {
	v.t.Helper()
	var at [2]float64
	v.eval(&at, `(() => { const u = `+queueChart+`; u.over.scrollIntoView({ block: "center", behavior: "instant" }); const b = u.over.getBoundingClientRect();
		return [b.x + b.width * $, b.y + b.height / 2]; })()`, x)
	return at[0], at[1]
}

const queueChart = `llamaPage.panels.chart("queue").plot`

func TestLive_AValueComesWithoutAReload(t *testing.T) {
	t.Parallel()
	d := startDashboard(t, settings{})
	f := startFeed(d, 30*time.Second, basics(server))
	v := open(t, d.url, Look{})
	v.drawn()
	v.eval(nil, `window.sameDocument = true`)
	for _, value := range []float64{17, 29} {
		start := time.Now()
		f.wait(value)
		v.await(`[...document.querySelectorAll("#panel-queue tbody tr")].some((tr) =>
			tr.querySelector("th").innerText.trim() === "waiting" && tr.querySelector("td").innerText === String($))`, value)
		took := time.Since(start)
		t.Logf("the value was on the page after %s", took.Round(time.Millisecond))
		assert.Less(t, took, 5*time.Second) // a second or so, where the machine is not busy
		// Nor is it in the numbers alone.
		v.await(`(() => { const u = `+queueChart+`; return u.data[1].includes($) && u.scales.y.max >= $; })()`, value, value)
	}
	v.await(`window.sameDocument`)
	v.await(`document.querySelector('.tile[href="#panel-wait"] small').innerText.includes("29")`)
}

func TestVerdict_ChangesWithWhatLimitsTheServer(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "rules.yaml")
	require.NoError(t, os.WriteFile(file, []byte(`
groups:
  - name: test
    interval: 1s
    rules:
      - alert: TestQueue
        expr: max by (instance) (llamacpp_requests_deferred) > 10
        labels: {kind: bottleneck, bottleneck: test, priority: "0"}
        annotations: {summary: '{{ $value }} requests wait.', cure: Do something about it.}
      - alert: TestAlert
        expr: max by (instance) (llamacpp_requests_deferred) > 20
        labels: {kind: alert, severity: critical}
        annotations: {summary: The queue is long., cure: Look at it., runbook_url: 'https://example.com/runbook'}
`), 0o600))
	d := startDashboard(t, settings{ruleFiles: []string{file}})
	f := startFeed(d, 90*time.Second, basics(server))
	v := open(t, d.url, Look{})
	v.drawn()
	says := func(text string) {
		t.Helper()
		v.await(`document.querySelector("#verdict")?.innerText.includes($)`, text)
	}
	says("Nothing holds the server back: 2.0 of 4 slots are busy.")
	v.await(`document.querySelector("#spoken").textContent.includes("Nothing limits it.")`)
	f.wait(12)
	says("12 requests wait.")
	says("Do something about it.")
	v.await(`document.querySelector("#spoken").textContent.includes("Limited by test.")`)
	f.wait(25)
	says("The queue is long.")
	v.await(`document.querySelector("#verdict li.critical a").href === "https://example.com/runbook"`)
	f.wait(0)
	says("Nothing holds the server back")
	v.await(`!document.querySelector("#verdict li.critical")`)
}

func TestZoom_IsOneForAllCharts(t *testing.T) {
	t.Parallel()
	d := startDashboard(t, settings{})
	startFeed(d, 200*time.Second, basics(server))
	v := open(t, d.url, Look{Height: 2500})
	v.drawn()
	ranges := plots + `.map((u) => [u.scales.x.min, u.scales.x.max])`
	same := ranges + `.every(([a, b], _, all) => a === all[0][0] && b === all[0][1])`
	fromX, y := v.spot(0.5)
	toX, _ := v.spot(0.8)
	var want [2]float64
	// Stands still first: under the cursor nothing moves.
	require.NoError(t, v.Mouse("mouseMoved", fromX, y, 0))
	v.await(link + `.includes("hover")`)
	v.eval(&want, `(() => { const u = `+queueChart+`, left = u.over.getBoundingClientRect().x;
		return [u.posToVal($ - left, "x"), u.posToVal($ - left, "x")]; })()`, fromX, toX)
	require.NoError(t, v.Drag(fromX, y, toX, y))
	v.await(`llamaPage.range && llamaPage.past && ` + same + ` && ` + plots + `[0].scales.x.max === llamaPage.range[1]`)
	var got [][2]float64
	v.eval(&got, ranges)
	require.GreaterOrEqual(t, len(got), 4)
	assert.InDelta(t, want[0], got[0][0], 2000)
	assert.InDelta(t, want[1], got[0][1], 2000)
	v.await(`llamaPage.lanes.plot.scales.x.max === llamaPage.range[1]`)
	v.await(`location.search.includes("end=" + llamaPage.range[1])`)

	// The address shows the same to somebody else.
	var address string
	v.eval(&address, `location.href`)
	other := open(t, address, Look{})
	other.await(`llamaPage?.past && `+plots+`.length && Math.abs(`+plots+`[0].scales.x.max - $) < 1001`, got[0][1])

	// Once more, and all the way back.
	fromX, y = v.spot(0.3)
	toX, _ = v.spot(0.7)
	require.NoError(t, v.Drag(fromX, y, toX, y))
	v.await(`llamaPage.range[1] - llamaPage.range[0] < $ && `+same, math.Floor(got[0][1]-got[0][0]))
	require.NoError(t, v.Mouse("mouseMoved", 5, 5, 0))
	v.press(kb.Escape)
	v.await(`!llamaPage.range && ` + link + ` === "live" && ` + same + ` && ` + plots + `[0].scales.x.max - ` + plots + `[0].scales.x.min === 300000`)
	v.await(`!location.search.includes("end=")`)
}

// Nothing moves, for as long as there is one reason.
func TestPause_EachReasonIsUndoneByItsOwn(t *testing.T) {
	t.Parallel()
	d := startDashboard(t, settings{})
	startFeed(d, 30*time.Second, basics(server))
	v := open(t, d.url, Look{})
	v.drawn()
	lastOf := func() (drawn, known float64) {
		var at [2]float64
		v.eval(&at, `[`+queueChart+`.data[0].at(-1), llamaPage.live.now]`)
		return at[0], at[1]
	}
	stands := func() {
		t.Helper()
		before, now := lastOf()
		v.await(`llamaPage.live.now >= $`, now+2000) // the stream goes on
		after, _ := lastOf()
		assert.InDelta(t, before, after, 0, "the chart has moved")
	}
	moves := func() {
		t.Helper()
		before, _ := lastOf()
		v.await(queueChart+`.data[0].at(-1) > $`, before)
	}
	pause := `button[aria-label="Pause"]`
	hover := func() {
		t.Helper()
		x, y := v.spot(0.5)
		require.NoError(t, v.Mouse("mouseMoved", x, y, 0))
	}
	moves()

	v.click(pause)
	v.await(link + ` === "paused: you"`)
	stands()
	hover()
	v.await(link + `.includes("hover") && ` + link + `.includes("you")`)
	require.NoError(t, v.Mouse("mouseMoved", 5, 5, 0))
	v.await(link + ` === "paused: you"`)
	stands()
	v.press(" ") // on the button it presses the button
	v.await(link + ` === "live"`)
	moves()

	hover()
	v.await(link + ` === "paused: hover"`)
	stands()
	require.NoError(t, v.Mouse("mouseMoved", 5, 5, 0))
	v.await(link + ` === "live"`)
	moves()

	v.click(pause)
	v.await(link + ` === "paused: you"`)
	front, cancel := chromedp.NewContext(v.ctx, chromedp.WithNewWindow(false))
	defer cancel()
	require.NoError(t, chromedp.Do(front, chromedp.Navigate("about:blank")))
	v.await(`document.hidden && llamaPage.paused.has("hidden")`)
	require.NoError(t, chromedp.Cancel(front))
	v.await(`!document.hidden && !llamaPage.paused.has("hidden")`)
	v.await(link + ` === "paused: you"`)
	v.click(pause)
	v.await(link + ` === "live"`)
	moves()
}

func TestHover_ShowsTheSameTimeInAllCharts(t *testing.T) {
	t.Parallel()
	d := startDashboard(t, settings{})
	startFeed(d, 200*time.Second, basics(server))
	v := open(t, d.url, Look{Height: 2500})
	v.drawn()
	x, y := v.spot(0.6)
	require.NoError(t, v.Mouse("mouseMoved", x, y, 0))
	clocks := `[...document.querySelectorAll(".legend th.at")].map((th) => th.innerText)`
	v.await(clocks + `.length === ` + plots + `.length`)
	var said []string
	v.eval(&said, clocks)
	require.GreaterOrEqual(t, len(said), 4)
	for _, s := range said {
		assert.Equal(t, said[0], s)
		assert.Regexp(t, `^\d\d:\d\d:\d\d$`, s)
	}
	var times []float64
	v.eval(&times, plots+`.concat(llamaPage.lanes.plot).map((u) => u.posToVal(u.cursor.left, "x"))`)
	for _, at := range times {
		assert.InDelta(t, times[0], at, 1500, "the cursors are at one time")
	}
	// By keys as well.
	require.NoError(t, v.Mouse("mouseMoved", 5, 5, 0))
	v.await(clocks + `.length === 0`)
	v.eval(nil, `document.querySelector("#panel-slots .plot").focus()`)
	v.press(kb.ArrowLeft)
	v.await(`((c) => c.length >= 4 && new Set(c).size === 1)(` + clocks + `)`)
}

func TestRestart_ThePageGoesOn(t *testing.T) {
	t.Parallel()
	s := settings{directory: t.TempDir(), version: "1.0.0"}
	d := startDashboard(t, s)
	f := startFeed(d, 60*time.Second, basics(server))
	v := open(t, d.url, Look{})
	v.allow(`ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE`)
	v.drawn()
	v.eval(nil, `window.sameDocument = true`)
	again := func(version string) {
		t.Helper()
		f.stop()
		d.stop()
		v.await(link + `.includes("trying again")`)
		_, err := os.Stat(s.directory)
		require.NoError(t, err)
		s.version, s.port = version, portOf(t, d.url)
		d = startDashboard(t, s)
		f.d = d
		f.resume()
		v.await(link + ` === "live" && llamaPage.live.now > Date.now() - 5000`)
	}
	again("1.0.0")
	v.await(`window.sameDocument`)
	f.wait(23)
	v.await(`[...document.querySelectorAll("#panel-queue td")].some((td) => td.innerText === "23")`)
	v.await(queueChart + `.data[1].filter((y) => y !== null).length > 60`) // what was before is there
	again("1.0.1")
	v.await(`!window.sameDocument && llamaPage.catalogue.version === "1.0.1"`)
	v.drawn()
	f.stop() // before the dashboard, which is stopped first since it began last
}
