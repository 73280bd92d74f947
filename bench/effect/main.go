// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command effect measures what being watched at the default clocks costs a real
// llama-server: it generates the same number of tokens in pairs, watched and
// not, in alternating order.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/collector"
	"github.com/llamatelemetry/otelcol-llamacpp/bench/internal/process"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

func main() {
	binary := flag.String("collector", "../bin/otelcol-llamacpp", "the built `program`")
	pairs := flag.Int("pairs", 16, "number of pairs")
	tokens := flag.Int("tokens", 500, "`tokens` of each generation")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *binary, *pairs, *tokens)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "effect:", err)
		os.Exit(1)
	}
}

// cost is what generating cost the server.
type cost struct {
	speed float64       // tokens/s
	cpu   time.Duration // of the server, for one token
}

func run(ctx context.Context, binary string, pairs, tokens int) (err error) {
	server, err := llamatest.Run(ctx, llamatest.Options{Model: tinygguf.Slow, Context: 8192})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	col, err := collector.Start(binary, collector.Config{Servers: []string{server.URL()}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, col.Signal(syscall.SIGCONT), col.Stop()) }()

	if _, err := generate(ctx, server, tokens); err != nil { // warms up
		return err
	}
	var speeds, cpus []float64
	fmt.Println("| pair | watched, tokens/s | not watched, tokens/s | speed ratio | CPU ratio |")
	fmt.Println("| ---: | ---: | ---: | ---: | ---: |")
	for i := range pairs {
		var c [2]cost
		for j := range 2 {
			watched := (i+j)%2 == 1
			k := 0
			// A stopped collector neither asks nor costs anything.
			s := syscall.SIGSTOP
			if watched {
				k, s = 1, syscall.SIGCONT
			}
			if err := col.Signal(s); err != nil {
				return err
			}
			time.Sleep(time.Second) // for it to wake up and connect
			if c[k], err = generate(ctx, server, tokens); err != nil {
				return err
			}
		}
		speeds = append(speeds, c[1].speed/c[0].speed)
		cpus = append(cpus, c[1].cpu.Seconds()/c[0].cpu.Seconds())
		fmt.Printf("| %d | %.1f | %.1f | %.4f | %.4f |\n", i+1, c[1].speed, c[0].speed, speeds[i], cpus[i])
	}
	fmt.Println("\nwatched / not watched:")
	fmt.Println("speed", quartiles(speeds))
	fmt.Println("server's CPU time per token", quartiles(cpus))
	if err := col.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	metrics, err1 := read(ctx, server, "/metrics")
	slots, err2 := read(ctx, server, "/slots")
	fmt.Printf("\none read of /metrics costs the server %s of CPU time, one of /slots %s: %.2f %% of a core at the default clocks\n",
		metrics, slots, (metrics+2*slots).Seconds()*100)
	return errors.Join(err1, err2)
}

// read is what one read of an endpoint costs the server.
func read(ctx context.Context, server *llamatest.Server, path string) (time.Duration, error) {
	const reads = 2000
	cpu1, err := process.CPU(server.PID)
	if err != nil {
		return 0, err
	}
	for range reads {
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL()+path, http.NoBody)
		if err != nil {
			return 0, err
		}
		r, err := http.DefaultClient.Do(q)
		if err != nil {
			return 0, err
		}
		_, err = io.Copy(io.Discard, r.Body)
		if err := errors.Join(err, r.Body.Close()); err != nil {
			return 0, err
		}
	}
	cpu2, err := process.CPU(server.PID)
	return (cpu2 - cpu1) / reads, err
}

func generate(ctx context.Context, server *llamatest.Server, tokens int) (cost, error) {
	cpu1, err := process.CPU(server.PID)
	if err != nil {
		return cost{}, err
	}
	r, err := server.Client().Complete(ctx, llamatest.Request{Prompt: "a", MaxTokens: tokens, Stream: true})
	if err != nil {
		return cost{}, err
	}
	cpu2, err := process.CPU(server.PID)
	return cost{
		speed: float64(r.OutputTokens-1) / r.End.Sub(r.FirstToken).Seconds(),
		cpu:   (cpu2 - cpu1) / time.Duration(max(r.OutputTokens, 1)),
	}, err
}

// quartiles are the median and the quartiles, with the 95 % confidence interval
// of the median that the order of the values gives.
func quartiles(xs []float64) string {
	slices.Sort(xs)
	n := len(xs)
	at := func(q float64) float64 { return xs[int(math.Round(q*float64(n-1)))] }
	half := 0.98 * math.Sqrt(float64(n))
	low, high := max(0, int(float64(n)/2-half)), min(n-1, int(float64(n)/2+half))
	return fmt.Sprintf("median %.4f, quartiles %.4f to %.4f, 95 %% confidence of the median %.4f to %.4f", at(0.5), at(0.25), at(0.75), xs[low], xs[high])
}
