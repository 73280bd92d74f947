// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/arrival"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/traffic"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"
)

const replayLong = `Sends requests like those that a server got: at the same times, with prompts and
answers of the same lengths, and as much of each prompt in the cache. FILE is one of

  traces that the Collector's file exporter wrote, with the spans that connector
    llamacpplog makes of llama-server's log, or others of the GenAI conventions
  a trace in Mooncake's format: timestamp, input_length, output_length, hash_ids
  times at which requests are due: seconds from the start, one a line; what is sent
    is up to --prompt, --max-tokens and so on, as with run

or - for standard input. Prompts are random words, since no recording has the real
ones, and answers go on to their length (ignore_eos) unless --ignore-eos=false. The
report has the recorded cache hit rate beside the one that came out.

Exit codes and report are those of run.`

const replayExamples = `  # yesterday's traffic against another build
  llamaload replay traces.jsonl --url http://localhost:8080

  # twenty minutes of it, five times as fast
  llamaload replay traces.jsonl --from 8h --to 8h20m --speed 5

  # a public trace on a server with a smaller context: all lengths divided by ten
  llamaload replay conversation_trace.jsonl --to 10m --scale 0.1`

// replay holds the flags of replay, including those of its run.
type replay struct {
	options
	speed, scale float64
	window       traffic.Window
}

func replayCommand(stdout, stderr io.Writer) *cobra.Command {
	r := replay{options: options{gaps: "constant"}}
	cmd := &cobra.Command{
		Use:     "replay FILE",
		Short:   "Send requests like those that a server got",
		Long:    replayLong,
		Example: replayExamples,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("%d arguments: want the file of a recording; see %s --help", len(args), c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			r.chooseSeed(c.Flags())
			if err := r.read(args[0], c.InOrStdin(), c.Flags()); err != nil {
				return usageError{err}
			}
			return r.run(c.Context(), &repetition{}, stdout, stderr)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	r.target(f)
	f.Float64Var(&r.speed, "speed", 1, "how many times as fast to send")
	f.DurationVar(&r.window.From, "from", 0, "leave out what came earlier than this time after the start of the recording")
	f.DurationVar(&r.window.To, "to", 0, "leave out what came at this time or later; 0 is the end")
	f.Float64Var(&r.scale, "scale", 1, "`number` to multiply all lengths by, for a server with a smaller context")
	r.cuts(f)
	r.bounds(f)
	r.content(f)
	r.gpus(f)
	r.outputs(f)
	exclude(cmd)
	return cmd
}

// fixed are the flags whose values a recording with lengths determines.
var fixed = []string{"prompt", "prompts", "prompt-tokens", "shared-prefix", "cold-depth", "repeat-prompts", "max-tokens"}

// read reads the recording, and sets those options of a run that follow from it.
func (r *replay) read(path string, stdin io.Reader, f *pflag.FlagSet) error {
	if !(r.scale > 0) || math.IsInf(r.scale, 0) {
		return fmt.Errorf("--scale %g: want a number greater than 0", r.scale)
	}
	in := stdin
	if path == "-" {
		path = "standard input"
	} else {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }() // it was only read
		in = file
	}
	rec, err := traffic.Read(in, path, r.window)
	if err != nil {
		return err
	}
	r.recorded = &recorded{name: path, Recording: rec, speed: r.speed}
	curve, _, err := r.recorded.curve()
	if err != nil {
		return err
	}
	last, _ := curve.When(float64(len(rec.Requests) - 1))
	r.duration = last.Truncate(time.Millisecond) + time.Millisecond
	if !r.recorded.hasLengths() {
		if f.Changed("scale") {
			return fmt.Errorf("--scale: %s has times without lengths: use --prompt-tokens and --max-tokens", path)
		}
		return nil
	}
	if i := slices.IndexFunc(fixed, f.Changed); i >= 0 {
		return fmt.Errorf("--%s: %s says how long prompts and answers are, and what they have in common: leave the flag out", fixed[i], path)
	}
	rec.Scale(r.scale)
	answers := workload.Range{Min: math.MaxInt32}
	for _, q := range rec.Requests {
		answers.Min, answers.Max = min(answers.Min, int(q.Output)), max(answers.Max, int(q.Output))
	}
	r.maxTokens = answers.String()
	if !f.Changed("ignore-eos") {
		r.ignoreEOS = true
	}
	return nil
}

// recorded is a recording that is replayed; nil in other runs.
type recorded struct {
	*traffic.Recording
	name  string
	speed float64
}

func (r *recorded) hasLengths() bool { return r != nil && r.Format != traffic.Times }

// curve returns when the requests are due, and a description of it for people.
func (r *recorded) curve() (arrival.Curve, string, error) {
	dues := make([]time.Duration, len(r.Requests))
	for i, q := range r.Requests {
		dues[i] = q.Due
	}
	c, err := arrival.NewReplay(dues, r.speed)
	if err != nil {
		err = fmt.Errorf("--speed: %w", err)
	}
	words := "replay of " + r.name
	if r.speed != 1 {
		words += fmt.Sprintf(", %g times as fast", r.speed)
	}
	return c, words, err
}

// follow sums up the recorded lengths of the requests that end well in a run. The
// sum is valid when the run is over.
func (r *recorded) follow(c *loadgen.Config) *loadgen.Recorded {
	if !r.hasLengths() {
		return nil
	}
	sum := &loadgen.Recorded{Format: r.Format.String(), Requests: len(r.Requests), LeftOut: r.LeftOut}
	also := c.Record
	c.Record = func(s loadgen.Sample) {
		if s.Measured && s.Result.InputTokens >= 0 {
			q, t := r.Requests[s.N], &sum.Tokens
			t.Input += int(q.Input)
			t.Output += int(q.Output)
			t.Cached += int(q.Cached)
			t.CacheHitRate = float64(t.Cached) / float64(t.Input)
		}
		if also != nil {
			also(s)
		}
	}
	return sum
}

// replayed returns prompts like the recorded ones.
func (o *options) replayed(ctx context.Context, transport http.RoundTripper) (workload.Source, string, error) {
	e, err := completion.ParseEndpoint(o.endpoint)
	if err != nil {
		return nil, "", usageError{fmt.Errorf("--endpoint: %w", err)}
	}
	_, server, err := o.clients(transport)
	if err != nil {
		return nil, "", usageError{err}
	}
	if err := o.recorded.fit(ctx, server, o.model); err != nil {
		return nil, "", usageError{err}
	}
	p, err := workload.NewReplay(ctx, o.tokenizer(transport), e, o.recorded.Recording, o.seed)
	return p, fmt.Sprintf("%d prompts like those of %s", len(o.recorded.Requests), o.recorded.name), err
}

// fit returns an error if a request does not fit into the context of the server.
func (r *recorded) fit(ctx context.Context, server *llamaserver.Client, model string) error {
	props, err := server.Props(ctx, model)
	if err != nil || props.Context <= 0 {
		return nil // it is no llama-server, or an old one: it will refuse what does not fit
	}
	n := r.Longest()
	q := r.Requests[n]
	need := int(q.Input + q.Output)
	if need <= props.Context {
		return nil
	}
	scale := float64(props.Context-1) / float64(need) // rounding may add a token
	digit := math.Pow(10, math.Floor(math.Log10(scale))-2)
	return fmt.Errorf("request %d of %s, due at %s, has %d tokens of prompt and %d of answer, more than the %d of a slot's context: start llama-server with a larger one (-c), or multiply all lengths with --scale %.3g",
		n, r.name, q.Due.Round(time.Millisecond), q.Input, q.Output, props.Context, math.Floor(scale/digit)*digit)
}

// tokenizer returns the server's tokenizer.
func (o *options) tokenizer(transport http.RoundTripper) *workload.ServerTokenizer {
	return &workload.ServerTokenizer{Base: strings.TrimRight(o.url, "/"), APIKey: o.apiKey, HTTP: &http.Client{Transport: transport}}
}
