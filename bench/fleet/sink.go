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
	arrived time.Time
}

// traffic is what arrived in a time.
type traffic struct {
	points      int
	plain, sent int64 // bytes, before and after compression
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

// scrapersAt are both, the slots at an interval and the server at twice that.
func scrapersAt(slots time.Duration) []scraper {
	return []scraper{
		{"server", "llamacpp.server.status", "llamacpp.requests.processing", 2 * slots},
		{"slots", "llamacpp.slots.tokens.decoded", "llamacpp.slots", slots},
	}
}

func newSink() *sink {
	s := &sink{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		s.mu.Lock()
		s.bodies = append(s.bodies, body{b, r.Header.Get("Content-Encoding") == "gzip", time.Now()})
		s.broken = errors.Join(s.broken, err)
		s.mu.Unlock()
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	return s
}

// scrapes are those that have arrived, by clock and in order, and what arrived
// between two times.
func (s *sink) scrapes(scrapers []scraper, from, to time.Time) (map[clock][]scrape, traffic, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[clock][]scrape{}
	var sum traffic
	for i, b := range s.bodies {
		t, err := b.read(scrapers, all)
		if err != nil {
			return nil, traffic{}, err
		}
		if b.arrived.After(from) && b.arrived.Before(to) {
			sum.points, sum.plain, sum.sent = sum.points+t.points, sum.plain+t.plain, sum.sent+t.sent
		}
		s.bodies[i].bytes = nil // may be large
	}
	for _, scrapes := range all {
		slices.SortFunc(scrapes, func(a, b scrape) int { return a.at.Compare(b.at) })
	}
	return all, sum, s.broken
}

func (b body) read(scrapers []scraper, into map[clock][]scrape) (traffic, error) {
	plain := b.bytes
	if b.gzipped {
		r, err := gzip.NewReader(bytes.NewReader(b.bytes))
		if err != nil {
			return traffic{}, err
		}
		if plain, err = io.ReadAll(r); err != nil {
			return traffic{}, err
		}
	}
	q := pmetricotlp.NewExportRequest()
	if err := q.UnmarshalProto(plain); err != nil {
		return traffic{}, err
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
	return traffic{q.Metrics().DataPointCount(), int64(len(plain)), int64(len(b.bytes))}, nil
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
