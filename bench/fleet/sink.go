// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/llamatelemetry/otelcol-llamacpp/test/points"
)

// sink is an OTLP backend that keeps what it gets, and looks into it only when
// all is over: it shares the processors with what is measured.
type sink struct {
	*httptest.Server

	mu     sync.Mutex
	bodies []body
	broken error
}

type body struct {
	bytes   []byte
	gzipped bool
}

// clock is one of a server's scrapers.
type clock struct{ server, scraper string }

type scrape struct {
	at       time.Time
	answered bool // the server's answer was there in time
}

// scraper is recognized by a metric that it emits at every scrape, and one that needs
// the server's answer.
type scraper struct {
	name, always, answer string
	interval             time.Duration
}

var scrapers = []scraper{
	{"server", "llamacpp.server.status", "llamacpp.requests.processing", time.Second},
	{"slots", "llamacpp.slots.tokens.decoded", "llamacpp.slots", 500 * time.Millisecond},
}

func newSink() *sink {
	s := &sink{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		s.mu.Lock()
		s.bodies = append(s.bodies, body{b, r.Header.Get("Content-Encoding") == "gzip"})
		s.broken = errors.Join(s.broken, err)
		s.mu.Unlock()
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	return s
}

// scrapes are those that have arrived, by clock and in order.
func (s *sink) scrapes() (map[clock][]scrape, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[clock][]scrape{}
	for _, b := range s.bodies {
		if err := b.read(all); err != nil {
			return nil, err
		}
	}
	for _, scrapes := range all {
		slices.SortFunc(scrapes, func(a, b scrape) int { return a.at.Compare(b.at) })
	}
	return all, s.broken
}

func (b body) read(into map[clock][]scrape) error {
	plain := b.bytes
	if b.gzipped {
		r, err := gzip.NewReader(bytes.NewReader(b.bytes))
		if err != nil {
			return err
		}
		if plain, err = io.ReadAll(r); err != nil {
			return err
		}
	}
	q := pmetricotlp.NewExportRequest()
	if err := q.UnmarshalProto(plain); err != nil {
		return err
	}
	for _, rm := range q.Metrics().ResourceMetrics().All() {
		server, _ := rm.Resource().Attributes().Get("service.instance.id")
		for _, sm := range rm.ScopeMetrics().All() {
			for _, k := range scrapers {
				if x := k.scrape(sm.Metrics()); !x.at.IsZero() {
					c := clock{server.Str(), k.name}
					into[c] = append(into[c], x)
				}
			}
		}
	}
	return nil
}

// scrape is the scraper's one in a batch; the zero one if there is none.
func (k scraper) scrape(metrics pmetric.MetricSlice) (x scrape) {
	for _, m := range metrics.All() {
		switch m.Name() {
		case k.always:
			x.at = points.Numbers(m).At(0).Timestamp().AsTime()
		case k.answer:
			x.answered = true
		}
	}
	return x
}

// timing is how well the clocks of one kind were kept.
type timing struct {
	scrapes, missed, unanswered int
	p50, p99, worst             time.Duration // how far intervals were off the clock
}

// timingOf looks at the scrapes of n servers between two times.
func timingOf(k scraper, all map[clock][]scrape, n int, from, to time.Time) timing {
	var t timing
	var off []time.Duration
	seen := 0
	for c, scrapes := range all {
		if c.scraper != k.name {
			continue
		}
		seen++
		before := time.Time{}
		for _, x := range scrapes {
			if x.at.Before(from) || !x.at.Before(to) {
				continue
			}
			t.scrapes++
			if !x.answered {
				t.unanswered++
			}
			if before.IsZero() {
				t.missed += lost(x.at.Sub(from), k.interval)
			} else {
				off = append(off, (x.at.Sub(before) - k.interval).Abs())
				t.missed += lost(x.at.Sub(before), k.interval)
			}
			before = x.at
		}
		if before.IsZero() {
			before = from
		}
		t.missed += lost(to.Sub(before), k.interval)
	}
	t.missed += (n - seen) * int(to.Sub(from)/k.interval) // those that never came
	slices.Sort(off)
	if len(off) > 0 {
		t.p50, t.p99, t.worst = off[len(off)/2], off[len(off)*99/100], off[len(off)-1]
	}
	return t
}

// lost is how many scrapes there should have been between two neighbours.
func lost(between, interval time.Duration) int {
	return max(0, int(math.Round(float64(between)/float64(interval)))-1)
}
