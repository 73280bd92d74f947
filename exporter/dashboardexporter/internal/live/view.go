// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package live

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// steps are the lengths of buckets. Each divides a day, so that all are aligned to
// the clock.
var steps = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute,
}

const (
	minWindow, maxWindow, defaultWindow = 10, 86400, 300 // seconds
	minPoints, maxPoints, defaultPoints = 60, 2000, 300
	maxName, maxGPUs, maxPanels         = 256, 64, 1000
)

// viewKey identifies what is looked at, apart from how much of it.
type viewKey struct {
	server string
	gpus   string // sorted, joined by zero bytes
	step   time.Duration
}

// view is what is looked at: one server, its GPUs, and the length of a bucket.
type view struct {
	server string   // empty while there is none
	gpus   []string // empty: all
	step   time.Duration
}

// wish is what a client asked for.
type wish struct {
	server string
	gpus   []string
	window time.Duration
	step   time.Duration
	end    int64 // milliseconds; 0: now, and live
	panels int   // how many of the first panels; 0: all
	seq    uint64
	resume bool // seq was given
}

func (w wish) key() viewKey {
	return viewKey{w.server, strings.Join(w.gpus, "\x00"), w.step}
}

// Parameters reads a query that has no parameters but the allowed ones, each once
// except gpu.
func Parameters(query string, allowed ...string) (url.Values, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("the query: %w: encode each value as RFC 3986 says", err)
	}
	for name, v := range values {
		if !slices.Contains(allowed, name) {
			return nil, fmt.Errorf("%s: there is no such parameter here: want %s", quote(name), cmp.Or(strings.Join(allowed, ", "), "none"))
		}
		if name != "gpu" && len(v) > 1 {
			return nil, fmt.Errorf("%s is given %d times: give it once", name, len(v))
		}
	}
	return values, checkName("server", values.Get("server"))
}

// parseWish reads the parameters of a view.
func parseWish(query string, allowed ...string) (wish, error) {
	values, err := Parameters(query, allowed...)
	if err != nil {
		return wish{}, err
	}
	w := wish{server: values.Get("server"), gpus: values["gpu"]}
	if len(w.gpus) > maxGPUs {
		return wish{}, fmt.Errorf("gpu is given %d times: at most %d can be chosen; without it, all are shown", len(w.gpus), maxGPUs)
	}
	for _, gpu := range w.gpus {
		if gpu == "" {
			return wish{}, errors.New("gpu is empty: give a hw_id, or leave it out to see all")
		}
		if err := checkName("gpu", gpu); err != nil {
			return wish{}, err
		}
	}
	slices.Sort(w.gpus)
	w.gpus = slices.Compact(w.gpus)

	window, err := integer(values, "window", defaultWindow, minWindow, maxWindow)
	if err != nil {
		return wish{}, err
	}
	points, err := integer(values, "points", defaultPoints, minPoints, maxPoints)
	if err != nil {
		return wish{}, err
	}
	w.window = time.Duration(window) * time.Second
	w.step = stepOf(w.window, points)
	if w.end, err = integer(values, "end", 0, 1, 1<<53); err != nil {
		return wish{}, err
	}
	panels, err := integer(values, "panels", 0, 1, maxPanels)
	if err != nil {
		return wish{}, err
	}
	w.panels = int(panels)
	seq, err := integer(values, "seq", 0, 0, 1<<53)
	if err != nil {
		return wish{}, err
	}
	w.seq, w.resume = uint64(seq), values.Has("seq")
	return w, nil
}

// stepOf returns the shortest step of which the window has at most points.
func stepOf(window time.Duration, points int64) time.Duration {
	for _, s := range steps {
		if window <= s*time.Duration(points) {
			return s
		}
	}
	return steps[len(steps)-1]
}

func integer(values url.Values, name string, missing, least, most int64) (int64, error) {
	if !values.Has(name) {
		return missing, nil
	}
	text := values.Get(name)
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s is %s: want a whole number from %d to %d", name, quote(text), least, most)
	}
	return n, nil
}

func checkName(parameter, name string) error {
	if len(name) > maxName {
		return fmt.Errorf("%s has %d bytes: want at most %d", parameter, len(name), maxName)
	}
	if !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("%s is %s: want text without control characters", parameter, quote(name))
	}
	return nil
}

// quote shows what a client sent, but not all of it if it is long.
func quote(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return strconv.QuoteToASCII(s)
}

// lastEventID returns the number of the last frame that a client received before
// its connection broke.
func lastEventID(r *http.Request) (uint64, bool) {
	n, err := strconv.ParseUint(r.Header.Get("Last-Event-ID"), 10, 64)
	return n, err == nil
}
