// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/eventserver"
)

// figures are the numbers of one proxy in one round.
type figures []float64

// inTurn measures each proxy once in each round, so that what else happens on the
// machine meets all of them, and returns the figures of the rounds by proxy.
func (b *bench) inTurn(ctx context.Context, l load, measure func(*proxy, *run) (figures, error)) (map[string][]figures, error) {
	all := map[string][]figures{}
	for range b.rounds {
		for _, p := range b.proxies {
			r, err := b.start(ctx, &p, l)
			if err != nil {
				return nil, err
			}
			f, err := measure(&p, r)
			if err := errors.Join(err, r.close()); err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			all[p.name] = append(all[p.name], f)
		}
	}
	return all, nil
}

// median returns the median over the rounds of what of makes of each round.
func median(rounds []figures, of func(round int) float64) float64 {
	xs := make([]float64, len(rounds))
	for i := range rounds {
		xs[i] = of(i)
	}
	slices.Sort(xs)
	if n := len(xs); n%2 == 0 && n > 0 {
		return (xs[n/2-1] + xs[n/2]) / 2
	}
	return xs[len(xs)/2]
}

// ratio is the CPU time for one thing of a proxy to that of nginx, which figure i is: the
// median of the ratios of the rounds.
func ratio(all map[string][]figures, name string, i int) string {
	if name == direct || len(all[plain]) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", median(all[name], func(round int) float64 { return all[name][round][i] / all[plain][round][i] }))
}

// latency measures the time to the first byte of an answer that comes at once, at rates
// that leave all of them time.
func (b *bench) latency(ctx context.Context) error {
	for _, rate := range []int{200, 1000} {
		l := load{Rate: rate, WarmUp: warmUp, Duration: warmUp + b.duration + time.Second, Header: eventserver.Closing(eventserver.Header(8, 0))}
		all, err := b.inTurn(ctx, l, func(_ *proxy, r *run) (figures, error) {
			w, err := r.watch(ctx, b.duration)
			if err != nil {
				return nil, err
			}
			seen, err := r.finish(ctx)
			if err != nil {
				return nil, err
			}
			return figures{seen.P50, seen.P99, w.proxy / w.requests * 1e6, w.proxy / w.seconds, w.others / w.seconds}, r.proxy.check(ctx, true)
		})
		if err != nil {
			return err
		}
		fmt.Printf("\nTime to the first byte, %d requests/s of 8 events that come at once, medians of %d rounds:\n\n", rate, b.rounds)
		fmt.Println("| | p50, ms | p99, ms | more than direct, p50 | p99 | CPU for a request | to nginx's | proxy, cores | others, cores |")
		fmt.Println("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
		for _, p := range b.proxies {
			m := func(i int) float64 {
				return median(all[p.name], func(round int) float64 { return all[p.name][round][i] })
			}
			more := func(i int) string {
				if p.name == direct || len(all[direct]) == 0 {
					return ""
				}
				return fmt.Sprintf("%.3f", median(all[p.name], func(round int) float64 { return all[p.name][round][i] - all[direct][round][i] }))
			}
			fmt.Printf("| %s | %.3f | %.3f | %s | %s | %.0f µs | %s | %.2f | %.2f |\n", p.name, m(0), m(1), more(0), more(1), m(2), ratio(all, p.name, 2), m(3), m(4))
		}
	}
	return nil
}

// requests measures the cost of a request with eight events, with so many users that the
// proxy is always busy.
func (b *bench) requests(ctx context.Context) error {
	const users = 32
	l := load{Users: users, Duration: warmUp + b.duration + time.Second, Header: eventserver.Closing(eventserver.Header(8, 0))}
	return b.cost(ctx, fmt.Sprintf("Requests of 8 events that come at once, closed loop of %d users", users), l, "request", 1, func(w window) float64 { return w.requests })
}

// events measures the cost of an event that arrives by itself.
func (b *bench) events(ctx context.Context) error {
	const (
		streams  = 100
		interval = 10 * time.Millisecond
	)
	opening := time.Second
	lasts := warmUp + opening + b.duration + time.Second
	l := load{Rate: 97, Duration: streams * time.Second / 97, Header: eventserver.Closing(eventserver.Header(int(lasts/interval), interval))}
	return b.cost(ctx, fmt.Sprintf("%d streams of %d events a second", streams, time.Second/interval), l, "event", 1000, func(w window) float64 { return w.events })
}

// cost measures what so many of the things that number counts cost.
func (b *bench) cost(ctx context.Context, title string, l load, thing string, many float64, number func(window) float64) error {
	all, err := b.inTurn(ctx, l, func(p *proxy, r *run) (figures, error) {
		if b.profiles != "" && r.proxy.pprof != "" {
			if err := r.pause(ctx, warmUp); err != nil {
				return nil, err
			}
			if err := r.proxy.profile(ctx, fmt.Sprintf("profile?seconds=%d", max(1, b.duration/time.Second-2)), filepath.Join(b.profiles, p.name+"-"+thing+"-cpu.pprof")); err != nil {
				return nil, err
			}
			return make(figures, 6), nil
		}
		w, err := r.watch(ctx, b.duration)
		n := number(w)
		f := figures{n / w.seconds, n / w.proxy, w.proxy / n * many * 1e3, w.proxy / w.seconds, w.others / w.seconds}
		return f, errors.Join(err, r.proxy.check(ctx, thing == "request"))
	})
	if err != nil {
		return err
	}
	per := "one"
	if many > 1 {
		per = fmt.Sprintf("%.0f", many)
	}
	fmt.Printf("\n%s, medians of %d rounds:\n\n", title, b.rounds)
	fmt.Printf("| | %[1]ss/s | %[1]ss/s and core | CPU for %[2]s | to nginx's | proxy, cores | others, cores |\n", thing, per)
	fmt.Println("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
	for _, p := range b.proxies {
		if p.name == direct && thing != "request" {
			continue
		}
		m := func(i int) float64 {
			return median(all[p.name], func(round int) float64 { return all[p.name][round][i] })
		}
		if p.name == direct {
			fmt.Printf("| %s | %.0f | | | | | %.2f |\n", p.name, m(0), m(4))
			continue
		}
		fmt.Printf("| %s | %.0f | %.0f | %.3f ms | %s | %.2f | %.2f |\n", p.name, m(0), m(1), m(2), ratio(all, p.name, 2), m(3), m(4))
	}
	return nil
}

// memory measures the memory of open streams, of one event a second each. It is
// measured once.
func (b *bench) memory(ctx context.Context) error {
	// Each stream has two connections in the proxy, which needs some files of its own.
	streams := min(b.open, (maxFiles()-100)/2)
	const opening = 10 * time.Second
	rate := max(1, streams/int(opening.Seconds()))
	l := load{Rate: rate, Duration: time.Duration(streams) * (time.Second / time.Duration(rate)), Header: eventserver.Closing(eventserver.Header(120, time.Second))}
	fmt.Printf("\nMemory with %d streams, each with an event a second:\n\n", streams)
	if streams < b.open {
		fmt.Printf("(%d were asked for; the hard limit of open files, %d, allows no more: ulimit -Hn)\n\n", b.open, maxFiles())
	}
	fmt.Println("| | open | resident MB | of it anonymous | peak | before the first | kB a stream | proxy, cores |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
	for _, p := range b.proxies {
		if p.command == nil {
			continue
		}
		if err := b.memoryOf(ctx, &p, l, streams); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) memoryOf(ctx context.Context, p *proxy, l load, streams int) (err error) {
	r, err := b.start(ctx, p, l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	before, err := r.proxy.memory()
	if err != nil {
		return err
	}
	if err := r.pause(ctx, l.Duration+2*time.Second); err != nil {
		return err
	}
	w, err := r.watch(ctx, 10*time.Second) // so long that a Go program collects its garbage
	if err != nil {
		return err
	}
	seen, err := r.server.Record(ctx)
	if err != nil {
		return err
	}
	if int(seen.Streaming) < streams*99/100 { // Caddy 2.6 breaks some off
		return fmt.Errorf("%s: %d of %d streams are open: %s", p.name, seen.Streaming, streams, r.proxy.output.String())
	}
	m, err := r.proxy.memory()
	if err != nil {
		return err
	}
	const mb = 1e6
	fmt.Printf("| %s | %d | %.0f | %.0f | %.0f | %.0f | %.1f | %.2f |\n", p.name, seen.Streaming, float64(m.Resident)/mb, float64(m.Anonymous)/mb,
		float64(m.Peak)/mb, float64(before.Resident)/mb, float64(m.Resident-before.Resident)/1e3/float64(seen.Streaming), w.proxy/w.seconds)
	if b.profiles != "" && r.proxy.pprof != "" {
		return errors.Join(
			r.proxy.profile(ctx, "heap?gc=1", filepath.Join(b.profiles, p.name+"-heap.pprof")),
			r.proxy.profile(ctx, "goroutine", filepath.Join(b.profiles, p.name+"-goroutine.pprof")))
	}
	return nil
}
