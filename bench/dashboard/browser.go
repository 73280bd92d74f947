// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/process"
	"github.com/llamatelemetry/otelcol-llamacpp/test/pagetest"
)

// weight is what the page's own files weigh.
type weight struct {
	Requests   int
	Compressed int
	Plain      int
	Data       int // the first snapshot and the catalogue, compressed
}

const weigh = `(() => {
  const w = { Requests: 0, Compressed: 0, Plain: 0, Data: 0 };
  for (const e of [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]) {
    if (e.name.includes("/live/") || e.name.includes("/loadgen/")) { w.Data += e.encodedBodySize; continue; }
    w.Requests++; w.Compressed += e.encodedBodySize; w.Plain += e.decodedBodySize;
  }
  return w;
})()`

// until resolves with the milliseconds since the page was asked for, once a
// condition holds in a frame and that frame has been drawn.
func until(condition string) string {
	return `new Promise((resolve) => {
  const look = () => (` + condition + `) ? requestAnimationFrame(() => resolve(performance.now())) : requestAnimationFrame(look);
  look();
})`
}

const (
	oneChart  = `document.querySelector(".panel:not([hidden]) canvas")?.width > 0`
	allCharts = `(() => { const p = [...document.querySelectorAll(".panel:not([hidden])")];
    return p.length > 20 && p.every((e) => e.querySelector("canvas")?.width > 0); })()`
	allInSight = `(() => { const p = [...document.querySelectorAll(".panel:not([hidden])")].filter((e) => e.getBoundingClientRect().top < innerHeight);
    return p.length > 2 && p.every((e) => e.querySelector("canvas")?.width > 0); })()`
)

// opened is a page that has been drawn.
type opened struct {
	First, InSight, All float64 // ms until the first chart, those in the window, all charts
}

func load24(b *pagetest.Browser, url string) (o opened, tab *pagetest.Tab, err error) {
	if tab, err = b.Open(url, pagetest.Look{}); err != nil {
		return o, nil, err
	}
	for _, step := range []struct {
		to        *float64
		condition string
	}{{&o.First, oneChart}, {&o.InSight, allInSight}, {&o.All, allCharts}} {
		if err := tab.Eval(until(step.condition), step.to); err != nil {
			tab.Close()
			return o, nil, err
		}
	}
	return o, tab, nil
}

// frames are the milliseconds between the frames of some seconds.
func frames(tab *pagetest.Tab, seconds int) ([]float64, error) {
	var all []float64
	err := tab.Eval(fmt.Sprintf(`new Promise((resolve) => {
  const all = []; let last = performance.now(); const end = last + %d;
  const step = (now) => { all.push(now - last); last = now; now > end ? resolve(all.slice(1)) : requestAnimationFrame(step); };
  requestAnimationFrame(step);
})`, seconds*1000), &all)
	return all, err
}

// watchTile notes when the number of requests that wait has been drawn on its tile.
const watchTile = `(() => {
  window.seen = {}; let before = "";
  const look = () => {
    const tile = document.querySelector('a.tile[href="#panel-wait"] small');
    const text = tile?.innerText.match(/\d+/)?.[0] ?? "";
    if (text !== before) { before = text; const channel = new MessageChannel(); channel.port1.onmessage = () => { window.seen[text] ??= Date.now(); }; channel.port2.postMessage(0); }
    requestAnimationFrame(look);
  };
  look();
  return true;
})()`

// sampleToPixel is how many milliseconds pass from a report of the waiting requests
// until their number has been drawn, for reports at any time.
func sampleToPixel(k *keeping, tab *pagetest.Tab, n int) (all []float64, err error) {
	if err := tab.Eval(watchTile, nil); err != nil {
		return nil, err
	}
	for i := range n {
		time.Sleep(time.Second + time.Duration(rand.Int64N(int64(time.Second))))
		number := 101 + 7*i
		at, err := k.report(number)
		if err != nil {
			return nil, err
		}
		var drawn float64
		key := strconv.Itoa(number)
		if err := tab.Await(`window.seen["`+key+`"]`, 10*time.Second); err != nil {
			return nil, err
		}
		if err := tab.Eval(`window.seen["`+key+`"]`, &drawn); err != nil {
			return nil, err
		}
		all = append(all, drawn-float64(at.UnixMicro())/1000)
	}
	return all, nil
}

// browserCPU is the CPU time of all processes of the browser.
func browserCPU() (sum time.Duration) {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		line, _ := os.ReadFile(name)
		if !bytes.Contains(line, []byte("pagetest-chromium-")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			if used, err := process.CPU(pid); err == nil {
				sum += used
			}
		}
	}
	return sum
}

// page is what was measured in a browser.
type page struct {
	weight
	first, cold, coldAll, warm []float64 // ms
	frames                     []float64
	browser                    float64 // cores, with 24 h
	pixel                      []float64
}

func browse(k *keeping, o options) (p page, err error) {
	b, err := pagetest.Launch(context.Background())
	if err != nil {
		return p, err
	}
	defer b.Close()
	for range max(3, o.rounds) {
		one, tab, err := load24(b, k.URL+"/?window=300")
		if err != nil {
			return p, err
		}
		p.first = append(p.first, one.First)
		if err := tab.Eval(weigh, &p.weight); err != nil {
			return p, err
		}
		tab.Close()
	}
	for i := range max(3, o.rounds) {
		// Another window each time: no answer of the time before will do.
		url := fmt.Sprintf("%s/?window=%d", k.URL, 86400-i)
		one, tab, err := load24(b, url)
		if err != nil {
			return p, err
		}
		p.cold, p.coldAll = append(p.cold, one.InSight), append(p.coldAll, one.All)
		tab.Close()
		if one, tab, err = load24(b, url); err != nil { // another viewer, soon after
			return p, err
		}
		p.warm = append(p.warm, one.InSight)
		if i == 0 {
			used, began := browserCPU(), time.Now()
			if p.frames, err = frames(tab, 10); err != nil {
				return p, err
			}
			p.browser = (browserCPU() - used).Seconds() / time.Since(began).Seconds()
		}
		tab.Close()
	}
	_, tab, err := load24(b, k.URL+"/?window=300")
	if err != nil {
		return p, err
	}
	defer tab.Close()
	p.pixel, err = sampleToPixel(k, tab, o.probes)
	return p, err
}
