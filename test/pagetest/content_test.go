// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package pagetest

import (
	"encoding/csv"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ended are requests of the last minute in two slots, with what is between them.
func ended(now time.Time) []request {
	ago := func(seconds float64) time.Time { return now.Add(-time.Duration(seconds * float64(time.Second))) }
	return []request{
		{server, 0, 11, ago(60), ago(50), ago(30), "completed", 512, 128, 201},
		{server, 0, 14, ago(20), ago(18), ago(8), "completed", 64, 0, 150},
		{server, 2, 12, ago(55), ago(45), ago(25), "cancelled", 300, 0, 99},
		{server, 3, 13, ago(40), time.Time{}, ago(20), "failed", 700, 10, 0},
	}
}

const lanes = `llamaPage.lanes.plot`

// pixel is the colour of a pixel of a slot's lane.
func (v *view) pixel(at time.Time, slot float64) string {
	v.t.Helper()
	var colour string
	v.eval(&colour, `(() => { const u = `+lanes+`;
		const [r, g, b, a] = u.ctx.getImageData(Math.round(u.valToPos($, "x", true)), Math.round(u.valToPos($, "y", true)), 1, 1).data;
		return a < 250 ? "" : "#" + [r, g, b].map((c) => c.toString(16).padStart(2, "0")).join(""); })()`, at.UnixMilli(), slot)
	return colour
}

// edge looks for a colour around a time of a slot: the mark at a request's end is a
// pixel or two wide, and where it begins depends on the clock.
func (v *view) edge(at time.Time, slot float64, colour any) bool {
	v.t.Helper()
	var found bool
	v.eval(&found, `(() => { const u = `+lanes+`, rgb = $.match(/[0-9a-f]{2}/gi).map((h) => parseInt(h, 16));
		const x = Math.round(u.valToPos($, "x", true)), { data } = u.ctx.getImageData(x - 4, Math.round(u.valToPos($, "y", true)), 9, 1);
		for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 100 && rgb.every((c, k) => Math.abs(c - data[i + k]) < 48)) return true;
		return false; })()`, colour, at.UnixMilli(), slot)
	return found
}

func TestLanes_HaveEachRequestInItsSlot(t *testing.T) {
	t.Parallel()
	d := startDashboard(t, settings{})
	startFeed(d, 90*time.Second, basics(server))
	now := time.Now()
	list := ended(now)
	require.NoError(t, d.traces.ConsumeTraces(t.Context(), requests(list...)))
	v := open(t, d.url, Look{})
	v.drawn()
	v.await(`llamaPage.lanes.plot && llamaPage.live.requests.length === 4`)
	v.press(" ") // so that what is asked for is what is drawn
	v.await(link + ` === "paused: you"`)
	var scene map[string]any
	v.eval(&scene, `import("#page/colours.js").then((m) => m.SCENE.light)`)
	between := func(a, b time.Time) time.Time { return a.Add(b.Sub(a) / 2) }
	for _, r := range list {
		slot := float64(r.slot)
		if r.first.IsZero() {
			assert.Equal(t, scene["prompt"], v.pixel(between(r.start, r.end), slot), "task %d: it never had a token", r.task)
		} else {
			assert.Equal(t, scene["prompt"], v.pixel(between(r.start, r.first), slot), "task %d: prompt", r.task)
			assert.Equal(t, scene["generating"], v.pixel(between(r.first, r.end), slot), "task %d: answer", r.task)
		}
		assert.NotContains(t, []any{scene["prompt"], scene["generating"]}, v.pixel(between(r.start, r.end), 1), "slot 1 did nothing")
		before := v.pixel(r.start.Add(-3*time.Second), slot) // nothing, or a line of the grid
		assert.NotContains(t, []any{scene["prompt"], scene["generating"]}, before, "task %d: before it began", r.task)
	}
	assert.True(t, v.edge(list[2].end, 2, scene["warning"]), "cancelled at its end")
	assert.True(t, v.edge(list[3].end, 3, scene["critical"]), "failed at its end")
	assert.False(t, v.edge(list[0].end, 0, scene["critical"]), "completed at its end")

	// A click opens the request.
	var at [2]float64
	require.Eventually(t, func() bool { // what is above may still grow
		v.eval(&at, `(() => { const u = `+lanes+`; u.over.scrollIntoView({ block: "center", behavior: "instant" }); const b = u.over.getBoundingClientRect();
			return [b.x + u.valToPos($, "x"), b.y + u.valToPos(0, "y")]; })()`, between(list[0].first, list[0].end).UnixMilli())
		assert.NoError(t, v.Mouse("mouseMoved", at[0]+1, at[1], 0))
		assert.NoError(t, v.Mouse("mouseMoved", at[0], at[1], 0))
		return strings.Contains(v.text(".tip"), "task 11")
	}, patience, 5*pollEvery)
	require.NoError(t, v.Drag(at[0], at[1], at[0], at[1]))
	v.await(`document.querySelector("#dialog").open`)
	assert.Equal(t, "Request of task 11", v.text("#dialog-title"))
	detail := v.text("#dialog dl")
	for _, fact := range []string{"completed", server, "qwen2.5-3b", "after 10.0 s", "30.0 s", "512 tokens, 128 of them cached (25.0 %)", "201 tokens"} {
		assert.Contains(t, detail, fact)
	}
	assert.Contains(t, detail, "02000b00020000000000000000000000")
	v.press(kb.Escape)
	v.await(`!document.querySelector("#dialog").open`)
}

func TestRequests_AreListedNewestFirst(t *testing.T) {
	t.Parallel()
	d := startDashboard(t, settings{})
	startFeed(d, 30*time.Second, basics(server))
	list := ended(time.Now())
	require.NoError(t, d.traces.ConsumeTraces(t.Context(), requests(list...)))
	v := open(t, d.url, Look{})
	v.drawn()
	rows := `[...document.querySelectorAll("#requests tbody tr")]`
	v.await(rows + `.length === 4`)
	var outcomes []string
	v.eval(&outcomes, rows+`.map((tr) => tr.querySelector(".outcome").innerText)`)
	assert.Equal(t, []string{"completed", "failed", "cancelled", "completed"}, outcomes)
	last := v.text("#requests tbody tr:last-child")
	for _, part := range []string{"512", "25.0 %", "201", "10.0 s", "100 ms", "30.0 s"} {
		assert.Contains(t, last, part)
	}
	// One that ends now comes by itself.
	now := time.Now()
	require.NoError(t, d.traces.ConsumeTraces(t.Context(), requests(
		request{server, 1, 15, now.Add(-3 * time.Second), now.Add(-2 * time.Second), now, "rejected", 33, 0, 7})))
	v.await(rows + `[0].innerText.includes("rejected")`)
	v.eval(nil, `document.querySelector("#requests tbody button").scrollIntoView({ block: "center", behavior: "instant" })`)
	v.click("#requests tbody tr:first-child button")
	v.await(`document.querySelector("#dialog").open && document.querySelector("#dialog-title").innerText === "Request of task 15"`)
	v.click(`#dialog button[aria-label="Close"]`)
	v.await(`!document.querySelector("#dialog").open`)

	var table string
	v.eval(&table, `fetch(document.querySelector("#requests h2 a").href).then((r) => r.text())`)
	records, err := csv.NewReader(strings.NewReader(table)).ReadAll()
	require.NoError(t, err)
	assert.Len(t, records, 6)
}

// A request that came through the proxy: how long it waited, and from when it had
// which slot, once the log has said so.
func TestRequests_ThroughTheProxyShowTheirWait(t *testing.T) {
	t.Parallel()
	d := startDashboard(t, settings{})
	startFeed(d, 90*time.Second, basics(server))
	now := time.Now()
	ago := func(seconds float64) time.Time { return now.Add(-time.Duration(seconds * float64(time.Second))) }
	came, began := ago(60), ago(40)
	td, slot := proxiedRequest(request{server, 2, 31, came, ago(30), ago(10), "completed", 512, 128, 201}, began, "alice")
	require.NoError(t, d.traces.ConsumeTraces(t.Context(), td))
	v := open(t, d.url, Look{})
	v.drawn()
	row := `document.querySelector("#requests tbody tr")`
	v.await(row + `?.innerText.includes("20.0 s")`)
	assert.Contains(t, v.text("#requests tbody tr"), "–", "its slot is not known yet")
	require.NoError(t, d.traces.ConsumeTraces(t.Context(), slot))
	v.await(row + `?.children[2].innerText === "2" && llamaPage.live.requests.length === 1`)
	v.press(" ")
	v.await(link + ` === "paused: you"`)
	var scene map[string]any
	v.eval(&scene, `import("#page/colours.js").then((m) => m.SCENE.light)`)
	assert.Equal(t, scene["prompt"], v.pixel(ago(35), 2), "the prompt, from when it got its slot")
	assert.Equal(t, scene["generating"], v.pixel(ago(20), 2))
	assert.NotContains(t, []any{scene["prompt"], scene["generating"]}, v.pixel(ago(50), 2), "while it waited it had no slot")

	v.eval(nil, `document.querySelector("#requests tbody button").scrollIntoView({ block: "center", behavior: "instant" })`)
	v.click("#requests tbody tr:first-child button")
	v.await(`document.querySelector("#dialog").open && document.querySelector("#dialog-title").innerText === "Request of task 31"`)
	assert.Equal(t, []string{"waited 20.0 s", "prompt 10.0 s", "answer 20.0 s"}, strings.Split(v.text("#dialog .keys-of-lanes"), "\n"))
	for _, fact := range []string{"alice", "2, 31", "the proxy, and the server's log", "after 30.0 s", "50.0 s", "38.4 tok/s"} {
		assert.Contains(t, v.text("#dialog dl"), fact)
	}
	v.keep("request-through-the-proxy")
}

// file is what the page has put into a folder, once it is complete.
func file(t *testing.T, folder, pattern string) string {
	t.Helper()
	var found string
	require.Eventually(t, func() bool {
		names, err := filepath.Glob(filepath.Join(folder, pattern))
		if err != nil || len(names) != 1 {
			return false
		}
		found = names[0]
		info, err := os.Stat(found)
		return err == nil && info.Size() > 0
	}, patience, pollEvery)
	return found
}

func TestStatistics_AreThoseOfWhatWasSent(t *testing.T) {
	t.Parallel()
	d := startDashboard(t, settings{})
	f := startFeed(d, 60*time.Second, basics(server))
	f.stop()
	f.wait(9)
	time.Sleep(time.Second)
	f.send(time.Now()) // the page has values at whole seconds: of the first one, perhaps none
	v := open(t, d.url+"/?window=60", Look{})
	v.drawn()
	v.await(`[...llamaPage.live.panels.get("queue").values()][0].values.includes(9)`)
	v.press(" ")
	v.press("s")
	v.await(`document.querySelector("#dialog").open && document.querySelector("#dialog tbody tr")`)
	var shown [][]string
	v.eval(&shown, `[...document.querySelectorAll("#dialog tbody tr")].map((tr) => [...tr.children].map((c) => c.textContent.trim()))`)
	byName := map[string][]string{}
	for _, r := range shown {
		byName[r[0]+": "+r[1]] = r[2:]
	}
	waiting := byName["Queue depth: waiting"]
	require.Len(t, waiting, 4, "%v", shown)
	assert.Equal(t, []string{"3", "9"}, []string{waiting[1], waiting[3]}, "median and greatest")
	assert.Equal(t, "41.0 %", byName["Context in use: in use"][0])

	folder := t.TempDir()
	require.NoError(t, v.DownloadTo(folder))
	v.clickText("#dialog button", "statistics as CSV")
	text, err := os.ReadFile(file(t, folder, "statistics.csv"))
	require.NoError(t, err)
	records, err := csv.NewReader(strings.NewReader(string(text))).ReadAll()
	require.NoError(t, err)
	assert.Equal(t, []string{"panel", "series", "unit", "mean", "p50", "p95", "min", "max", "last"}, records[0])
	assert.Len(t, records, 1+len(shown))
	for _, r := range records {
		if r[0] == "Queue depth" && r[1] == "waiting" {
			assert.Equal(t, []string{"3", "9"}, []string{r[6], r[7]}, "least and greatest")
		}
	}
	v.clickText("#dialog button", "all values as CSV")
	text, err = os.ReadFile(file(t, folder, "values.csv"))
	require.NoError(t, err)
	records, err = csv.NewReader(strings.NewReader(string(text))).ReadAll()
	require.NoError(t, err)
	assert.Len(t, records, 61)
	assert.Contains(t, records[0], "Queue depth: waiting (requests)")
}

// Two windows of which the truth is known: the later one has twice the token rate.
func TestCompare_ShowsBothWindowsAndTheirDifference(t *testing.T) {
	t.Parallel()
	d := startDashboard(t, settings{})
	now := time.Now().Truncate(time.Second)
	began := now.Add(-time.Hour)
	rate := func(rate float64) source {
		s := basics(server)
		s.metrics = s.metrics[:2:2]
		s.metrics[1].value = rate
		s.metrics = append(s.metrics, metric{"llamacpp_context_utilization_ratio", gauge, rate / 1000, nil},
			metric{"llamacpp_requests_deferred", gauge, 3, nil})
		return s
	}
	tokens := 0.0
	for i := range 130 {
		s := rate(200)
		if i >= 70 {
			s = rate(400)
		}
		tokens += s.metrics[1].value
		s.metrics[1] = metric{s.metrics[1].name, constant, tokens, nil}
		require.NoError(t, d.metrics.ConsumeMetrics(t.Context(), at(now.Add(time.Duration(i-130)*time.Second), began, s)))
	}
	span := func(end time.Time) string { return fmt.Sprintf("%d,50", end.UnixMilli()) }
	v := open(t, d.url+"/?window=60&compare="+span(now.Add(-65*time.Second))+"~"+span(now.Add(-2*time.Second)), Look{Height: 1400})
	v.await(`document.querySelector("#dialog").open && document.querySelector("#dialog table")`)
	var rows [][]string
	v.eval(&rows, `[...document.querySelectorAll("#dialog table")].at(-1) ? [...[...document.querySelectorAll("#dialog table")].at(-1).querySelectorAll("tbody tr")].map((tr) => [...tr.children].map((c) => c.textContent.trim())) : []`)
	found := false
	for _, r := range rows {
		if strings.HasPrefix(r[0], "Token generation rate") && strings.HasSuffix(r[0], "mean") {
			found = true
			t.Log(r)
			a, b := firstNumber(t, r[1]), firstNumber(t, r[2])
			assert.InEpsilon(t, 200, a, 0.03)
			assert.InEpsilon(t, 400, b, 0.06) // the window has some seconds of before
		}
	}
	assert.True(t, found, "%v", rows)
	v.await(`document.querySelectorAll("#dialog [data-compare] canvas").length >= 2`)
	v.keep("compare")
	// Both lines are drawn, in the colours of the key.
	for i, name := range []string{"A", "B"} {
		var count int
		v.eval(&count, `import("#page/colours.js").then((m) => { const c = document.querySelector('[data-compare="context"] canvas');
			const [r, g, b] = m.SIX.light[$].match(/[0-9a-f]{2}/g).map((h) => parseInt(h, 16));
			const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
			let n = 0; for (let k = 0; k < data.length; k += 4) if (Math.abs(data[k] - r) + Math.abs(data[k + 1] - g) + Math.abs(data[k + 2] - b) < 40 && data[k + 3] > 200) n++;
			return n; })`, i)
		assert.Greater(t, count, 30, "pixels of %s", name)
	}
	v.clickText("#dialog button", "swap")
	v.await(`location.search.includes("compare=" + encodeURIComponent($)) || location.search.includes("compare=" + $)`,
		span(now.Add(-2*time.Second)), span(now.Add(-2*time.Second)))
	v.press(kb.Escape)
	v.await(`!location.search.includes("compare")`)
}

func firstNumber(t *testing.T, text string) float64 {
	t.Helper()
	word, _, _ := strings.Cut(strings.TrimSpace(text), " ")
	n, err := strconv.ParseFloat(word, 64)
	require.NoError(t, err, text)
	return n
}

func TestSnapshot_WorksFromADiskWithoutANetwork(t *testing.T) {
	t.Parallel()
	d := startDashboard(t, settings{})
	startFeed(d, 90*time.Second, everything()...)
	require.NoError(t, d.traces.ConsumeTraces(t.Context(), requests(ended(time.Now())...)))
	v := open(t, d.url, Look{})
	v.drawn()
	v.await(`document.querySelector("#verdict").innerText`)
	folder := t.TempDir()
	require.NoError(t, v.DownloadTo(folder))
	v.clickText("header a", "snapshot")
	path := file(t, folder, "llama-server-*.html")

	s := open(t, "file://"+path, Look{Height: 2600})
	s.await(plots + `.length >= 8 && ` + link + `.startsWith("snapshot of")`)
	assert.Contains(t, s.text("header"), "qwen2.5-3b-instruct-q4_k_m")
	assert.NotEmpty(t, s.text("#verdict"))
	s.await(`document.querySelectorAll("#requests tbody tr").length === 4`)
	var rows []row
	s.eval(&rows, legend, "queue")
	require.Len(t, rows, 2)
	for i, value := range []float64{3, 4} {
		assert.Equal(t, strconv.FormatFloat(value, 'f', -1, 64), rows[i].Last)
		assert.Equal(t, rows[i].Colour, s.near(rows[i].Colour, value), "a line at %g", value)
	}
	fromX, y := s.spot(0.75)
	toX, _ := s.spot(0.9)
	require.NoError(t, s.Drag(fromX, y, toX, y))
	s.await(`llamaPage.range && ["queue", "slots"].map((id) => llamaPage.panels.chart(id).plot).every((u) =>
		u.scales.x.min === llamaPage.range[0] && u.scales.x.max === llamaPage.range[1])`)
	require.NoError(t, s.Mouse("mouseMoved", 5, 5, 0))
	s.press(kb.Escape)
	s.await(`!llamaPage.range`)
	s.press("t")
	s.await(`document.documentElement.dataset.theme === "dark"`)
	s.keep("snapshot")
	for _, url := range s.Requests() {
		assert.Regexp(t, `^(file://|data:|blob:)`, url[:min(len(url), 80)])
	}
	s.wellBehaved()
}

// near returns the colour if the queue's chart has it within two pixels of a value, some
// seconds before its end.
func (v *view) near(colour string, value float64) string {
	v.t.Helper()
	var off float64
	v.eval(&off, `(() => { const u = `+queueChart+`, rgb = $.match(/[0-9a-f]{2}/gi).map((h) => parseInt(h, 16));
		const x = Math.round(u.valToPos(u.data[0].at(-20), "x", true)), y = Math.round(u.valToPos($, "y", true));
		const { data } = u.ctx.getImageData(x - 2, y - 2, 5, 5);
		let best = 1e9;
		for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200) best = Math.min(best, Math.max(...rgb.map((c, k) => Math.abs(c - data[i + k]))));
		return best; })()`, colour, value)
	if off > 48 || math.IsNaN(off) {
		return fmt.Sprintf("nothing nearer than %g", off)
	}
	return colour
}
