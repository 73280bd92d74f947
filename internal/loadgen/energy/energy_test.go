// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package energy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// page answers each request with what a function says the page is then.
type page func(*http.Request) (status int, body string)

func (p page) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body := p(r)
	if status == 0 {
		return nil, errors.New("connection refused")
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Body: io.NopCloser(strings.NewReader(body))}, nil
}

// gpus is a page of metrics of GPUs with these joules, and with watts if any.
func gpus(joules []float64, watts ...float64) string {
	var b strings.Builder
	b.WriteString("# TYPE other gauge\nother{hw_type=\"gpu\"} 5\n")
	for _, f := range []struct {
		name, kind string
		values     []float64
	}{{energyMetric, "counter", joules}, {powerMetric, "gauge", watts}} {
		fmt.Fprintf(&b, "# TYPE %s %s\n", f.name, f.kind)
		for i, v := range f.values {
			fmt.Fprintf(&b, "%s{hw_id=\"GPU-%d\",hw_name=\"H100\",hw_type=\"gpu\",instance=\"a\",job=\"nvidia-gpu\"} %g\n", f.name, i, v)
		}
		fmt.Fprintf(&b, "%s{hw_id=\"PSU\",hw_type=\"power_supply\"} 1e9\n", f.name)
	}
	return b.String()
}

func source(t *testing.T, p page, address ...string) *Source {
	t.Helper()
	s, err := NewSource(append(address, "http://user:secret@collector:9464/metrics")[0], &http.Client{Transport: p})
	require.NoError(t, err)
	return s
}

// elapsed returns the seconds since the start of a test.
func elapsed(start time.Time) float64 { return time.Since(start).Seconds() }

func TestMeter_CountsTheJoulesOfAllGPUsBetweenTwoTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		// 300 W and 50 W, which the collector reads every 2 s. The other GPU metrics do
		// not matter.
		s := source(t, func(*http.Request) (int, string) {
			read := math.Floor(elapsed(began)/2) * 2
			return 200, gpus([]float64{5e6 + 300*read, 7e6 + 50*read}, 300, 50)
		})
		m, err := s.Start(t.Context())
		require.NoError(t, err)
		assert.InDelta(t, 2, elapsed(began), 0.51, "waits until the GPUs were read again")
		from := time.Now()
		time.Sleep(20300 * time.Millisecond)
		used, err := m.End(t.Context(), from, time.Now())
		require.NoError(t, err)
		assert.InDelta(t, 350*20.3, used.Joules, 350*0.5, "as exactly as the readings are apart")
		assert.Equal(t, Used{used.Joules, 20300 * time.Millisecond, 2, "hw_energy_joules_total at http://user:xxxxx@collector:9464/metrics"}, used)
	})
}

func TestMeter_IntegratesPowerWhereGPUsHaveNoCounter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := source(t, func(*http.Request) (int, string) { return 200, gpus(nil, 100+10*elapsed(began), 50) })
		m, err := s.Start(t.Context())
		require.NoError(t, err)
		from := time.Now()
		time.Sleep(10 * time.Second)
		used, err := m.End(t.Context(), from, time.Now())
		require.NoError(t, err)
		assert.InDelta(t, 1500+10*10*10/2, used.Joules, 1)
		assert.Equal(t, "integral of hw_power_watts at http://user:xxxxx@collector:9464/metrics", used.Source)
	})
}

func TestSource_ReadsThePowerOfAllWhereOnlySomeCountEnergy(t *testing.T) {
	s := source(t, func(*http.Request) (int, string) { return 200, gpus([]float64{5e6}, 300, 50) })
	r, err := s.read(t.Context())
	require.NoError(t, err)
	assert.Equal(t, reading{map[string]float64{"nvidia-gpu a GPU-0": 300, "nvidia-gpu a GPU-1": 50}, true}, r)
}

func TestMeter_ReadsOnAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := source(t, func(*http.Request) (int, string) {
			if at := elapsed(began); at > 3 && at < 7 {
				return 503, ""
			}
			return 200, gpus([]float64{100 * elapsed(began)})
		})
		m, err := s.Start(t.Context())
		require.NoError(t, err)
		from := time.Now()
		time.Sleep(10 * time.Second)
		used, err := m.End(t.Context(), from, time.Now())
		require.NoError(t, err)
		assert.InDelta(t, 1000, used.Joules, 1)
	})
}

func TestMeter_SaysWhyTheEnergyIsUnknown(t *testing.T) {
	const second = time.Second
	for name, test := range map[string]struct {
		page func(seconds float64) (int, string)
		want string
		late bool // at the end and not at the start
	}{
		"nobody there":   {func(float64) (int, string) { return 0, "" }, "GET http://user:xxxxx@collector:9464/metrics: connection refused: is the collector running there?", false},
		"not found":      {func(float64) (int, string) { return 404, "" }, "metrics: 404: is this a page of metrics?", false},
		"a web page":     {func(float64) (int, string) { return 200, "<html>" }, "metrics: no page of metrics: ", false},
		"no GPUs":        {func(float64) (int, string) { return 200, gpus(nil) }, "has neither hw_energy_joules_total nor hw_power_watts: want those of a collector", false},
		"standing still": {func(float64) (int, string) { return 200, gpus([]float64{5}) }, "has not moved for 35s: is the collector that reads the GPUs running?", false},
		"stopped":        {func(s float64) (int, string) { return 200, gpus([]float64{100 * min(s, 5)}) }, "has not moved for 35s", true},
		"gone":           {func(s float64) (int, string) { return int(200 * max(0, min(1, 6-s))), gpus([]float64{s}) }, "connection refused", true},
		"restarted":      {func(s float64) (int, string) { return 200, gpus([]float64{1000 + math.Mod(s, 5)}) }, "went back during the run: the driver", true},
		"a GPU lost":     {func(s float64) (int, string) { return 200, gpus([]float64{s, s}[:2-int(min(1, s/5))]) }, "the GPUs that the metrics show changed", true},
		"not a number":   {func(s float64) (int, string) { return 200, gpus([]float64{s + 0*math.Sqrt(5-s)}) }, "of a GPU is NaN", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				s := source(t, func(*http.Request) (int, string) { return test.page(elapsed(began)) })
				m, err := s.Start(t.Context())
				if test.late {
					require.NoError(t, err)
					from := time.Now()
					time.Sleep(10 * second)
					_, err = m.End(t.Context(), from, time.Now())
				}
				require.ErrorContains(t, err, test.want)
				assert.NotContains(t, err.Error(), "secret")
			})
		})
	}
}

func TestMeter_DoesNotWaitForARunThatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := source(t, func(*http.Request) (int, string) { return 200, gpus([]float64{min(1, elapsed(began))}) })
		m, err := s.Start(t.Context())
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = m.End(ctx, began, time.Now())
		require.EqualError(t, err, "the run ended before the GPUs were read again")
	})
}

func TestSource_AsksPrometheus(t *testing.T) {
	answer := func(series ...string) string {
		return `{"status":"success","data":{"resultType":"vector","result":[` + strings.Join(series, ",") + `]}}`
	}
	for name, test := range map[string]struct {
		address, query, answer string
		want                   reading
		wrong                  string
	}{
		"counters": {"", `{__name__=~"hw_energy_joules_total|hw_power_watts",hw_type="gpu"}`, answer(
			`{"metric":{"__name__":"hw_power_watts","hw_id":"GPU-0","instance":"a","job":"nvidia-gpu"},"value":[1,"300"]}`,
			`{"metric":{"__name__":"hw_power_watts","hw_id":"GPU-0","instance":"b","job":"nvidia-gpu"},"value":[1,"200"]}`,
			`{"metric":{"__name__":"hw_energy_joules_total","hw_id":"GPU-0","instance":"a","job":"nvidia-gpu"},"value":[1,"5e6"]}`,
			`{"metric":{"__name__":"hw_energy_joules_total","hw_id":"GPU-0","instance":"b","job":"nvidia-gpu"},"value":[1,"7"]}`,
		), reading{map[string]float64{"nvidia-gpu a GPU-0": 5e6, "nvidia-gpu b GPU-0": 7}, false}, ""},
		"power": {"", `{__name__=~"hw_energy_joules_total|hw_power_watts",hw_type="gpu"}`, answer(
			`{"metric":{"__name__":"hw_power_watts","hw_id":"GPU-0"},"value":[1,"300"]}`,
		), reading{map[string]float64{"  GPU-0": 300}, true}, ""},
		"a query of one's own": {"?query=sum(my_joules_total)", "sum(my_joules_total)", answer(`{"metric":{},"value":[1,"12.5"]}`), reading{map[string]float64{"  ": 12.5}, false}, ""},
		"nothing":              {"?query=none", "none", answer(), reading{}, "no series for none"},
		"a wrong query":        {"?query=)", ")", `{"status":"error","error":"parse error"}`, reading{}, "query: parse error"},
		"a matrix":             {"?query=a[1m]", "a[1m]", `{"status":"success","data":{"resultType":"matrix","result":[]}}`, reading{}, "the result is a matrix: want an instant vector"},
		"something else":       {"", `{__name__=~"hw_energy_joules_total|hw_power_watts",hw_type="gpu"}`, "<html>", reading{}, "no answer of Prometheus' query API"},
	} {
		t.Run(name, func(t *testing.T) {
			s := source(t, func(r *http.Request) (int, string) {
				assert.Equal(t, "/prometheus/api/v1/query", r.URL.Path)
				assert.Equal(t, test.query, r.URL.Query().Get("query"))
				return 200, test.answer
			}, "http://prometheus:9090/prometheus/api/v1/query"+test.address)
			got, err := s.read(t.Context())
			if test.wrong != "" {
				require.ErrorContains(t, err, test.wrong)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, test.want, got)
		})
	}
}

func TestNewSource_WantsAnAddress(t *testing.T) {
	for _, address := range []string{"", "localhost:9464", "/metrics", "ftp://h/metrics", "http://", "http://h:x/"} {
		_, err := NewSource(address, http.DefaultClient)
		assert.ErrorContains(t, err, "want the address of a page of metrics, such as http://localhost:9464/metrics", address)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(gpus([]float64{1, 2}, 3)))
	f.Add([]byte(`{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1,"2"]}]}}`))
	f.Add([]byte(`{"status":"success","data":{"resultType":"vector","result":[{"value":[]}]}}`))
	f.Fuzz(func(_ *testing.T, body []byte) {
		_, _ = parsePage(body)
		_, _ = parseAnswer(body, "")
	})
}
