// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package pagetest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

// The built collector with its own configuration, and a server whose slots are all
// busy: from the server's answers and its log to the sentence on top.
func TestCollector_ShowsAServerUnderLoad(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "llama-server.log")
	out, err := os.Create(log)
	require.NoError(t, err)
	t.Cleanup(func() { _ = out.Close() })
	sim := llamasim.Start(t, llamasim.Options{Log: out})
	sim.AddLoad(llamasim.Load{Concurrency: 9})
	port := freeport.For(t)
	state := filepath.Join(t.TempDir(), "state")
	c := collectortest.Start(t, []string{
		"LLAMACPP_ENDPOINT=" + sim.URL(), "LLAMACPP_LOG=" + log, "STATE_DIRECTORY=" + state, fmt.Sprintf("DASHBOARD_PORT=%d", port),
		fmt.Sprintf("PROMETHEUS_PORT=%d", freeport.For(t)), fmt.Sprintf("TELEMETRY_PORT=%d", freeport.For(t)),
		fmt.Sprintf("HEALTH_CHECK_PORT=%d", freeport.For(t)),
	}, "--config", filepath.Join("..", "..", "collector-config.yaml"))
	c.AwaitLog("Everything is ready")
	v := open(t, fmt.Sprintf("http://localhost:%d", port), Look{})
	v.allow(`ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE`)
	v.await(link + ` === "live" && llamaPage.live.running.length === 4`)
	v.await(`document.querySelectorAll("#requests tbody tr").length >= 5`)
	v.await(`[...document.querySelectorAll("#requests .outcome")].some((e) => e.innerText === "completed")`)
	for _, panel := range []string{"token-rate", "request-rate", "request-time", "first-token", "queue", "slots", "context"} {
		v.await(`llamaPage.panels.chart($) && [...llamaPage.live.panels.get($).values()].some((s) => s.values.some((y) => y > 0))`, panel, panel)
	}
	// The rule waits before it says so.
	require.NoError(t, v.Await(`document.querySelector("#verdict")?.innerText.startsWith("Requests wait: all 4 slots are busy")`, 90*time.Second))
	v.keep("under-load")

	// After kill -9 the page goes on, and knows what was before.
	before := time.Now()
	c.Kill()
	v.await(link + `.includes("trying again")`)
	c.Start()
	require.NoError(t, v.Await(link+` === "live" && llamaPage.live.now > `+fmt.Sprint(before.UnixMilli()), 2*patience))
	v.await(`[...llamaPage.live.panels.get("token-rate").values()].some((s) => s.values.filter((y, i) => y > 0 && llamaPage.live.start + i * llamaPage.live.step < $).length > 10)`, before.UnixMilli())
}
