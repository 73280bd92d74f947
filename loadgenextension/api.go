// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenextension // import "github.com/llamatelemetry/otelcol-llamacpp/loadgenextension"

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/arrival"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/webguard"
)

//go:embed openapi.yaml
var openAPI []byte

// route is an operation of the REST API.
type route struct {
	method, path string
	handle       http.HandlerFunc
}

func (e *Extension) routes() []route {
	return []route{
		{http.MethodGet, "/openapi.yaml", serveOpenAPI},
		{http.MethodGet, "/api/v1/profiles", e.getProfiles},
		{http.MethodGet, "/api/v1/runs", e.getRuns},
		{http.MethodPost, "/api/v1/runs", e.postRun},
		{http.MethodGet, "/api/v1/runs/{id}", e.ofRun(getRun)},
		{http.MethodPatch, "/api/v1/runs/{id}", e.ofRun(patchRun)},
		{http.MethodPost, "/api/v1/runs/{id}/stop", e.ofRun(stopRun)},
		{http.MethodGet, "/api/v1/runs/{id}/results", e.ofRun(getResults)},
		{http.MethodGet, "/api/v1/runs/{id}/report", e.ofRun(getReport)},
		{http.MethodGet, "/api/v1/runs/{id}/events", e.ofRun(e.getEvents)},
	}
}

func (e *Extension) handler() http.Handler {
	return guard(e.cfg.ServerConfig.Auth.HasValue(), e.mux())
}

// Handler returns the REST API for another server, which may serve it under any
// path. Say whether that server authenticates its clients; if it does not, only
// localhost may start load, and only localhost and hosts may read.
//
// The handler is to be used between Start and Shutdown.
func (e *Extension) Handler(authenticated bool, hosts []string) http.Handler {
	return webguard.Guard{Authenticated: authenticated, LoopbackOnly: true, Hosts: hosts, Refuse: forbid}.Protect(e.mux())
}

func (e *Extension) mux() *http.ServeMux {
	mux := http.NewServeMux()
	for _, r := range e.routes() {
		mux.HandleFunc(r.method+" "+r.path, r.handle)
	}
	return mux
}

// profileJSON is a profile as the API shows it.
type profileJSON struct {
	Name     string  `json:"name"`
	API      string  `json:"api"`
	Model    string  `json:"model"`
	Schedule string  `json:"schedule"`
	Duration float64 `json:"duration"`
	Start    bool    `json:"start"`
}

// runJSON is a run as the API shows it.
type runJSON struct {
	ID       string         `json:"id"`
	Profile  string         `json:"profile"`
	State    state          `json:"state"`
	Schedule string         `json:"schedule"`
	Began    time.Time      `json:"began"`
	Ended    *time.Time     `json:"ended"`
	Reason   *string        `json:"reason"`
	Elapsed  float64        `json:"elapsed"`
	Duration float64        `json:"duration"`
	Rate     *float64       `json:"rate"`
	InFlight int            `json:"in_flight"`
	Requests loadgen.Counts `json:"requests"`
	TTFT     percentiles    `json:"ttft"`
}

type percentiles struct {
	P50 *float64 `json:"p50"`
	P95 *float64 `json:"p95"`
}

type problemJSON struct {
	Error string `json:"error"`
}

func (r *run) show() runJSON {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := runJSON{
		ID: r.id, Profile: r.profile, State: r.stateLocked(), Schedule: r.schedule, Began: r.began,
		Elapsed: time.Since(r.began).Seconds(), Duration: r.config.Duration.Seconds(),
	}
	if r.load != nil {
		p := r.load.Progress()
		s.Requests, s.InFlight = p.Counts, r.load.InFlight()
		if p.TTFT50 > 0 {
			p50, p95 := p.TTFT50.Seconds(), p.TTFT95.Seconds()
			s.TTFT = percentiles{&p50, &p95}
		}
	}
	switch s.State {
	case running:
		s.Elapsed = r.load.Elapsed().Seconds()
		if rate, ok := r.load.Rate(); ok {
			s.Rate = &rate
		}
	case ended:
		s.Elapsed = r.end.Sub(r.began).Seconds()
		at, reason := r.end, "done"
		if r.cause != nil {
			reason = r.cause.Error()
		}
		s.Ended, s.Reason = &at, &reason
	}
	return s
}

func (e *Extension) getProfiles(w http.ResponseWriter, _ *http.Request) {
	list := []profileJSON{}
	for _, name := range slices.Sorted(maps.Keys(e.cfg.Profiles)) {
		p := e.cfg.Profiles[name]
		list = append(list, profileJSON{name, p.API, p.Model, p.schedule(), p.Duration.Seconds(), p.Start})
	}
	answer(w, http.StatusOK, map[string]any{"profiles": list})
}

func (e *Extension) getRuns(w http.ResponseWriter, _ *http.Request) {
	list := []runJSON{}
	for _, r := range slices.Backward(e.list()) {
		list = append(list, r.show())
	}
	answer(w, http.StatusOK, map[string]any{"runs": list})
}

func (e *Extension) postRun(w http.ResponseWriter, q *http.Request) {
	var want startJSON
	if !decode(w, q, &want) {
		return
	}
	r, err := e.start(want.Profile, want.Overrides)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Location", "runs/"+r.id) // relative, as another server may serve the API under another path
	answer(w, http.StatusCreated, r.show())
}

// ofRun calls handle with the run that the request's path names.
func (e *Extension) ofRun(handle func(http.ResponseWriter, *http.Request, *run)) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		r, ok := e.find(q.PathValue("id"))
		if !ok {
			fail(w, http.StatusNotFound, "no run has this id: GET /api/v1/runs lists those that are remembered")
			return
		}
		handle(w, q, r)
	}
}

func getRun(w http.ResponseWriter, _ *http.Request, r *run) { answer(w, http.StatusOK, r.show()) }

// startJSON is the body of a request to start a run.
type startJSON struct {
	Profile string `json:"profile"`
	Overrides
}

// changeJSON is the body of a request to change a run.
type changeJSON struct {
	Rate *float64 `json:"rate"`
	Over float64  `json:"over"` // seconds
}

func patchRun(w http.ResponseWriter, q *http.Request, r *run) {
	var want changeJSON
	if !decode(w, q, &want) {
		return
	}
	if want.Rate == nil {
		fail(w, http.StatusUnprocessableEntity, `rate is missing: want {"rate": 5}`)
		return
	}
	if err := r.turn(*want.Rate, time.Duration(want.Over*float64(time.Second))); err != nil {
		refuse(w, err)
		return
	}
	answer(w, http.StatusOK, r.show())
}

// stopRun answers at once; the run ends as soon as its requests are cancelled.
func stopRun(w http.ResponseWriter, _ *http.Request, r *run) {
	if err := r.stop(); err != nil {
		refuse(w, err)
		return
	}
	answer(w, http.StatusAccepted, r.show())
}

// reportOf returns the report of a run. If there is none, it tells the client why
// and returns nil.
func reportOf(w http.ResponseWriter, r *run) *loadgen.Report {
	if r.state() != ended {
		fail(w, http.StatusConflict, "the run is under way: results are there when it has ended")
		return nil
	}
	report, cause := r.result()
	if report == nil {
		fail(w, http.StatusConflict, fmt.Sprintf("the run could not begin: %v", cause))
	}
	return report
}

func getResults(w http.ResponseWriter, _ *http.Request, r *run) {
	if report := reportOf(w, r); report != nil {
		w.Header().Set("Content-Type", "application/json")
		_ = report.WriteJSON(w) // the client has gone
	}
}

func getReport(w http.ResponseWriter, _ *http.Request, r *run) {
	if report := reportOf(w, r); report != nil {
		w.Header().Set("Content-Type", "text/markdown; charset=utf-8")
		_ = report.WriteMarkdown(w)
	}
}

const (
	// eventInterval is the time between two events of progress.
	eventInterval = time.Second
	// writeWithin limits how long a client may take to receive one event. The
	// server's write_timeout applies to the whole stream and would end it.
	writeWithin = 10 * time.Second
)

// getEvents streams the state of the run until it has ended.
func (e *Extension) getEvents(w http.ResponseWriter, q *http.Request, r *run) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	control := http.NewResponseController(w)
	send := func(event string) bool {
		data, err := json.Marshal(r.show())
		if err != nil {
			return false
		}
		_ = control.SetWriteDeadline(time.Now().Add(writeWithin)) // otherwise the server's own deadline ends the stream
		_, err = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, data)
		return err == nil && control.Flush() == nil
	}
	tick := time.NewTicker(eventInterval)
	defer tick.Stop()
	for send("progress") {
		select {
		case <-tick.C:
		case <-r.done:
			send("end")
			return
		case <-q.Context().Done():
			return
		}
	}
}

func serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(openAPI) // the client has gone
}

// decode reads a request's body and reports whether it is valid. If it is not,
// the client is told why.
func decode(w http.ResponseWriter, q *http.Request, v any) bool {
	d := json.NewDecoder(q.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		fail(w, http.StatusUnprocessableEntity, fmt.Sprintf("body: %v: /openapi.yaml describes it", err))
		return false
	}
	return true
}

// refuse answers with the error and the status that belongs to it.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusConflict
	var invalid invalidError
	switch {
	case errors.As(err, &invalid):
		status = http.StatusUnprocessableEntity
	case errors.Is(err, errNoProfile):
		status = http.StatusNotFound
	case errors.Is(err, errShutdown):
		status = http.StatusServiceUnavailable
	case errors.Is(err, arrival.ErrTurnedTooOften):
		status = http.StatusTooManyRequests
	}
	fail(w, status, err.Error())
}

func fail(w http.ResponseWriter, status int, problem string) {
	answer(w, status, problemJSON{problem})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // the client has gone
}
