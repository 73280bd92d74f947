// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package pagetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lively makes the values of sources go up and down.
func lively(sources ...source) []source {
	for i := range sources {
		sources[i].lively = true
	}
	return sources
}

// gpus are everything with so many GPUs, which are not alike.
func gpus(n int) []source {
	all := everything()
	var metrics []metric
	for _, m := range all[0].metrics {
		at := slices.IndexFunc(m.labels, func(l string) bool { return strings.HasPrefix(l, "hw_id=") })
		if at < 0 {
			metrics = append(metrics, m)
			continue
		}
		for i := range n {
			one := m
			one.labels = slices.Clone(m.labels)
			one.labels[at] = fmt.Sprintf("hw_id=%s%d", gpuID[:len(gpuID)-1], i)
			if !still.MatchString(m.name) {
				one.value *= 1 - 0.07*float64(i)
			}
			metrics = append(metrics, one)
		}
	}
	all[0].metrics = metrics
	return all
}

// busy are requests of the last minutes in all slots.
func busy(now time.Time, slots int) []request {
	var list []request
	for slot := range slots {
		end := now.Add(-time.Duration(1+slot) * time.Second)
		for i := range 30 {
			length := time.Duration(3000+1700*((i*7+slot*3)%5)) * time.Millisecond
			start := end.Add(-length)
			outcome := "completed"
			if (i+slot)%11 == 10 {
				outcome = "cancelled"
			}
			list = append(list, request{
				server, int64(slot), int64(100*slot + i), start, start.Add(length / 6), end, outcome,
				int64(200 + 90*(i%6)), int64(60 * (i % 4)), int64(length / (30 * time.Millisecond)),
			})
			end = start.Add(-time.Duration(300+500*((i+slot)%4)) * time.Millisecond)
		}
	}
	return list
}

// Pictures of what the page looks like, for a person to look at.
func TestScenes(t *testing.T) {
	t.Parallel()
	type scene struct {
		name    string
		sources []source
		path    string
		looks   map[string]Look
		ready   string
	}
	wide := func(name string) map[string]Look { return map[string]Look{name: {}} }
	router := basics(server)
	router.metrics = append(router.metrics, metric{"llamacpp_models", gauge, 4, []string{"llamacpp_model_state=loaded"}},
		metric{"llamacpp_models", gauge, 8, []string{"llamacpp_model_state=unloaded"}})
	models := []source{router}
	for i := range 12 {
		m := basics(fmt.Sprintf("%s/model-%02d-instruct-q4_k_m", server, i+1))
		m.attributes = []string{"service.version=b11669", fmt.Sprintf("llamacpp.model.name=model-%02d-instruct-q4_k_m", i+1)}
		if i >= 4 {
			m.metrics = []metric{{"llamacpp_server_status", gauge, 1, []string{"llamacpp_server_state=unloaded"}}}
		}
		models = append(models, m)
	}
	var fleet []source
	for i := range 50 {
		s := basics(fmt.Sprintf("gpu-%02d.example:8080", i+1))
		switch i % 9 {
		case 4:
			s.metrics[0].labels = []string{"llamacpp_server_state=loading"}
		case 7:
			s.metrics = []metric{{"llamacpp_server_status", gauge, 1, []string{"llamacpp_server_state=unreachable"}}}
		}
		fleet = append(fleet, s)
	}
	for _, s := range []scene{
		{"everything", lively(gpus(1)...), "", map[string]Look{
			"light": {}, "dark": {Dark: true}, "narrow": Looks[2].Look,
			"tall": {Height: 3000},
		}, Ready},
		{"empty", nil, "", map[string]Look{"empty": {}, "empty-narrow": Looks[2].Look}, Ready},
		{"eight GPUs", lively(gpus(8)...), "#group-gpu", map[string]Look{"gpus-8": {Height: 2200}}, Ready},
		{"servers", lively(fleet...), "", map[string]Look{"servers-50": {Height: 1800}, "servers-50-narrow": Looks[2].Look}, `document.querySelectorAll("#overview tbody tr").length === 50`},
		{"router", lively(models...), "", wide("router-12"), `document.querySelectorAll("#overview tbody tr").length === 13`},
		{"one of a router", lively(models[:4]...), "?server=" + server, wide("router"), Ready},
	} {
		t.Run(s.name, func(t *testing.T) {
			d := startDashboard(t, settings{})
			if s.sources != nil {
				startFeed(d, 200*time.Second, s.sources...)
			}
			if s.name == "everything" {
				require.NoError(t, d.traces.ConsumeTraces(t.Context(), requests(busy(time.Now(), 6)...)))
			}
			for name, look := range s.looks {
				v := open(t, d.url+"/"+s.path, look)
				v.await(s.ready)
				if s.sources != nil {
					v.await(`document.querySelector("#verdict").innerText !== "" || llamaPage.onlyServers`)
				}
				if look.Mobile {
					var width int
					v.eval(&width, `innerWidth`)
					assert.EqualValues(t, look.Width, width, "%s: something is wider than the screen", name)
				}
				v.keep(name)
				v.Close()
			}
		})
	}
}
