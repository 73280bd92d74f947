// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/arrival"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"
)

// options holds the flags of a run.
type options struct {
	url, endpoint, model, apiKey, caFile string
	certFile, keyFile                    string
	headers                              []string
	insecure, noStream, noKeepAlive      bool
	connectTimeout, firstToken, timeout  time.Duration
	rate, burstiness                     float64
	gaps, ramp, steps, sine              string
	recorded                             *recorded
	users, maxInFlight                   int
	count, seed                          uint64
	think, duration, warmUp, tail        time.Duration
	maxWait, drain                       time.Duration
	maxErrors, cancelShare, sharedPrefix float64
	prompts                              []string
	promptFile, promptTokens             string
	maxTokens, temperature, turns        string
	cancelAfter                          int
	coldDepth, repeatPrompts, ignoreEOS  bool
	noCache                              bool
	objective                            string
	failIf                               []string
	json, csv, markdown, html, requests  string
	gpuMetrics                           string
}

// exclusive lists groups of mutually exclusive flags.
var exclusive = [][]string{
	{"rate", "ramp", "steps", "sine", "users"},
	{"gaps", "users"},
	{"prompt", "prompts", "prompt-tokens"},
	{"repeat-prompts", "prompt-tokens"},
}

// exclude marks those flags of each group that the command has as mutually exclusive.
func exclude(c *cobra.Command) {
	for _, group := range exclusive {
		has := slices.DeleteFunc(slices.Clone(group), func(name string) bool { return c.Flags().Lookup(name) == nil })
		if len(has) > 1 {
			c.MarkFlagsMutuallyExclusive(has...)
		}
	}
}

func flagsOnly(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("argument %q: want flags only; see %s --help", args[0], c.CommandPath())
	}
	return nil
}

// chooseSeed chooses a random seed, unless one is given.
func (o *options) chooseSeed(f *pflag.FlagSet) {
	if !f.Changed("seed") {
		o.seed = rand.Uint64() >> 32 //nolint:gosec // Printed in the report.
	}
}

// target defines the flags for the server and the way in which requests reach it.
func (o *options) target(f *pflag.FlagSet) {
	f.StringVar(&o.url, "url", "http://localhost:8080", "base `URL` of the server")
	f.StringVar(&o.endpoint, "endpoint", "chat", "`API`: chat, completions, responses, messages, completion (llama.cpp's own) or embeddings")
	f.StringVar(&o.model, "model", "", "`name` of the model, where the server has several")
	f.StringVar(&o.apiKey, "api-key", os.Getenv("LLAMACPP_API_KEY"), "the server's `key`; by default that of LLAMACPP_API_KEY")
	f.Lookup("api-key").DefValue = ""
	f.StringArrayVar(&o.headers, "header", nil, "`'Name: value'` to send with each request; may be repeated")
	f.StringVar(&o.caFile, "ca-file", "", "`file` of certificates to trust instead of the system's")
	f.StringVar(&o.certFile, "cert-file", "", "`file` of the certificate to show to the server, with --key-file")
	f.StringVar(&o.keyFile, "key-file", "", "`file` of the key of that certificate")
	f.BoolVar(&o.insecure, "insecure", false, "do not verify the server's certificate")
	f.BoolVar(&o.noStream, "no-stream", false, "ask for the whole answer at once; there is no time to first token then")
	f.BoolVar(&o.noKeepAlive, "no-keep-alive", false, "open a connection for each request")
	f.DurationVar(&o.connectTimeout, "connect-timeout", 10*time.Second, "longest time to connect; 0 is no limit")
	f.DurationVar(&o.firstToken, "first-token-timeout", 0, "longest time to the first token; 0 is no limit")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "longest time of a whole request; 0 is no limit")
}

// pace defines the flags that determine when the requests of a run are sent.
func (o *options) pace(f *pflag.FlagSet) {
	f.Float64Var(&o.rate, "rate", 2, "requests a second")
	f.StringVar(&o.ramp, "ramp", "", "rate that changes linearly, `FROM:TO:OVER`, such as 1:10:1m, and then stays")
	f.StringVar(&o.steps, "steps", "", "rates one after another, `RATE:FOR,…`, such as 2:30s,4:30s; the last stays")
	f.StringVar(&o.sine, "sine", "", "rate that oscillates, `MEAN:AMPLITUDE:PERIOD`, such as 10:5:1m")
	f.IntVar(&o.users, "users", 0, "closed loop: `number` of users, each waiting for an answer before the next request")
	o.span(f)
}

// span defines the flags for how long a run sends requests and which of them count.
func (o *options) span(f *pflag.FlagSet) {
	f.DurationVar(&o.think, "think", 0, "how long a user waits after an answer, before the next request or turn")
	f.DurationVar(&o.duration, "duration", 30*time.Second, "how long requests are sent; 0 is until --count")
	f.Uint64Var(&o.count, "count", 0, "`number` of requests after which the run ends; 0 is no limit")
	o.cuts(f)
}

// cuts defines the flags for what is left out of a run.
func (o *options) cuts(f *pflag.FlagSet) {
	f.DurationVar(&o.warmUp, "warm-up", 0, "requests due in this time at the start are not counted")
	f.DurationVar(&o.tail, "tail", 0, "requests due in this time at the end are not counted")
	f.DurationVar(&o.maxWait, "max-wait", 0, "how long a request that exceeds --max-in-flight waits before it is dropped")
}

// limits defines the flags for the limits of every run and the gaps between requests.
func (o *options) limits(f *pflag.FlagSet, gaps string) {
	f.StringVar(&o.gaps, "gaps", gaps, "time between requests: constant, poisson or gamma")
	f.Float64Var(&o.burstiness, "burstiness", 1, "shape of gamma gaps: less than 1 comes in bursts, 1 is poisson, more is more regular")
	o.bounds(f)
}

// bounds defines the flags for the limits of every run.
func (o *options) bounds(f *pflag.FlagSet) {
	f.IntVar(&o.maxInFlight, "max-in-flight", 1000, "most requests in flight; those due beyond it are dropped and counted")
	f.DurationVar(&o.drain, "drain", time.Minute, "how long to wait for answers at the end")
	f.Float64Var(&o.maxErrors, "max-errors", 0.5, "share of errors among the last 100 requests that ends a run; 1 is never")
}

// content defines the flags for the content of requests.
func (o *options) content(f *pflag.FlagSet) {
	f.StringArrayVar(&o.prompts, "prompt", nil, "`text` to send instead of the ten built-in prompts; may be repeated")
	f.StringVar(&o.promptFile, "prompts", "", "`file` of prompts, one JSON object a line: messages, prompt, or ShareGPT's conversations")
	f.StringVar(&o.promptTokens, "prompt-tokens", "", "synthetic prompts of so many `tokens`, as llama-server counts: 512, 100-500, or 512@4096 after 4,096 in context")
	f.Float64Var(&o.sharedPrefix, "shared-prefix", 0, "share of a synthetic prompt's new tokens that is the same at the start of all")
	f.BoolVar(&o.coldDepth, "cold-depth", false, "make the tokens after @ new in each prompt as well, so that none is in the cache")
	f.BoolVar(&o.repeatPrompts, "repeat-prompts", false, "send the same prompts again and again; by default each begins with a unique number, so that the server's cache does not help")
	f.BoolVar(&o.noCache, "no-cache", false, "ask llama-server not to use its prompt cache (cache_prompt: false), so that it computes every prompt in full")
	f.StringVar(&o.maxTokens, "max-tokens", "50-150", "most tokens to generate, a number or a `range`")
	f.StringVar(&o.temperature, "temperature", "0.5-0.9", "a number, a `range`, or server to leave it to the server")
	f.BoolVar(&o.ignoreEOS, "ignore-eos", false, "generate --max-tokens tokens always (llama.cpp, vLLM)")
	f.Float64Var(&o.cancelShare, "cancel-share", 0, "share of requests to cancel before their end")
	f.IntVar(&o.cancelAfter, "cancel-after", 10, "chunks of text after which those are cancelled")
	f.Uint64Var(&o.seed, "seed", 0, "`number` that determines the random prompts, lengths and gaps: the same seed gives the same requests; by default random, so that the server's cache does not have the prompts of the last run")
}

// outputs defines the flags for judging a run and writing its report.
func (o *options) outputs(f *pflag.FlagSet) {
	f.StringVar(&o.objective, "objective", "", "latency bounds that a good request meets, such as `'ttft<500ms && tpot<50ms'`")
	f.StringArrayVar(&o.failIf, "fail-if", nil, "exit with 3 if this is true at the end, such as `'p95(ttft)>2s'`; may be repeated")
	f.StringVar(&o.json, "json", "", "write the report as JSON to this `file`; - is standard output, as for the files below")
	f.StringVar(&o.csv, "csv", "", "write the latencies as CSV to this `file`")
	f.StringVar(&o.markdown, "markdown", "", "write the report as Markdown to this `file`")
	o.page(f)
	f.StringVar(&o.requests, "requests", "", "write one line of JSON for each request to this `file`")
}

// page defines the flag for the report as a page.
func (o *options) page(f *pflag.FlagSet) {
	f.StringVar(&o.html, "html", "", "write the report as a page to this `file`, which needs no network to be looked at")
}

func (o *options) conditions() ([]loadgen.Condition, error) {
	var all []loadgen.Condition
	for _, s := range o.failIf {
		c, err := loadgen.ParseCondition(s)
		if err != nil {
			return nil, fmt.Errorf("--fail-if: %w", err)
		}
		all = append(all, c)
	}
	return all, nil
}

// config returns how the run is paced, and a description of it for people.
func (o *options) config() (*loadgen.Config, string, error) {
	c := &loadgen.Config{
		Users: o.users, Think: o.think, Duration: o.duration, Requests: o.count, WarmUp: o.warmUp, Tail: o.tail,
		MaxInFlight: o.maxInFlight, MaxWait: o.maxWait, Drain: o.drain, MaxErrors: o.maxErrors, Sleep: loadgen.PreciseSleep,
	}
	var words string
	if o.users > 0 {
		words = fmt.Sprintf("closed loop of %d users who think %s", o.users, loadgen.Plain(o.think))
	} else {
		curve, rate, err := o.curve()
		if err != nil {
			return nil, "", err
		}
		gaps, err := o.gapsOf()
		if err != nil {
			return nil, "", err
		}
		c.Arrivals = arrival.Times(curve, gaps, o.seed)
		words = "open loop, " + rate
		if o.recorded == nil {
			words += ", gaps " + o.gaps
			if o.gaps == "gamma" {
				words += fmt.Sprintf(" of burstiness %g", o.burstiness)
			}
		}
	}
	if o.objective != "" {
		var err error
		if c.Objective, err = loadgen.ParseObjective(o.objective); err != nil {
			return nil, "", err
		}
	}
	if o.turns != "" {
		words += fmt.Sprintf(", conversations of %s turns with %s between an answer and the next", o.turns, loadgen.Plain(o.think))
	}
	if o.duration > 0 && o.recorded == nil {
		words += ", for " + loadgen.Plain(o.duration)
	}
	if o.count > 0 {
		words += fmt.Sprintf(", at most %d requests", o.count)
	}
	err := c.Validate()
	return c, words, err
}

func (o *options) gapsOf() (arrival.Gaps, error) {
	switch o.gaps {
	case "constant":
		return arrival.Regular, nil
	case "poisson":
		return arrival.Poisson, nil
	case "gamma":
		if !(o.burstiness > 0) {
			return nil, fmt.Errorf("--burstiness %g: want a number greater than 0", o.burstiness)
		}
		return arrival.Gamma(o.burstiness), nil
	}
	return nil, fmt.Errorf("--gaps %s: want constant, poisson or gamma", o.gaps)
}

func (o *options) curve() (arrival.Curve, string, error) {
	switch {
	case o.ramp != "":
		from, to, over, err := twoRates(o.ramp)
		if err != nil {
			return nil, "", fmt.Errorf("--ramp %s: %w: want FROM:TO:OVER, such as 1:10:1m", o.ramp, err)
		}
		c, err := arrival.NewRamp(from, to, over)
		return c, "ramp " + o.ramp, err
	case o.sine != "":
		mean, amplitude, period, err := twoRates(o.sine)
		if err != nil {
			return nil, "", fmt.Errorf("--sine %s: %w: want MEAN:AMPLITUDE:PERIOD, such as 10:5:1m", o.sine, err)
		}
		c, err := arrival.NewSine(mean, amplitude, period)
		return c, "sine " + o.sine, err
	case o.steps != "":
		var steps []arrival.Step
		for s := range strings.SplitSeq(o.steps, ",") {
			rate, lasts, _ := strings.Cut(s, ":")
			v, err := strconv.ParseFloat(rate, 64)
			d, err2 := time.ParseDuration(lasts)
			if err = errors.Join(err, err2); err != nil {
				return nil, "", fmt.Errorf("--steps %s: %w: want RATE:FOR,…, such as 2:30s,4:30s", o.steps, err)
			}
			steps = append(steps, arrival.Step{Rate: v, For: d})
		}
		c, err := arrival.NewSteps(steps)
		return c, "steps " + o.steps, err
	case o.recorded != nil:
		return o.recorded.curve()
	}
	c, err := arrival.NewConstant(o.rate)
	if err != nil {
		err = fmt.Errorf("--rate: %w", err)
	}
	return c, fmt.Sprintf("%g requests/s", o.rate), err
}

// twoRates parses two rates and a time with colons between them.
func twoRates(s string) (a, b float64, d time.Duration, err error) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return 0, 0, 0, fmt.Errorf("%d values", len(parts))
	}
	if a, err = strconv.ParseFloat(parts[0], 64); err != nil {
		return 0, 0, 0, err
	}
	if b, err = strconv.ParseFloat(parts[1], 64); err != nil {
		return 0, 0, 0, err
	}
	d, err = time.ParseDuration(parts[2])
	return a, b, d, err
}

// transport returns a transport that keeps a connection for each request in flight.
func (o *options) transport() (*http.Transport, error) {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{}).DialContext,
		MaxIdleConnsPerHost: max(o.maxInFlight, o.users),
		IdleConnTimeout:     time.Minute,
		DisableKeepAlives:   o.noKeepAlive,
		DisableCompression:  true,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.insecure}, //nolint:gosec // Asked for.
	}
	if o.certFile != "" || o.keyFile != "" {
		own, err := tls.LoadX509KeyPair(o.certFile, o.keyFile)
		if err != nil {
			return nil, fmt.Errorf("--cert-file and --key-file: %w", err)
		}
		t.TLSClientConfig.Certificates = []tls.Certificate{own}
	}
	if o.caFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(o.caFile)
	if err != nil {
		return nil, fmt.Errorf("--ca-file: %w", err)
	}
	t.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca-file: %s has no certificate in PEM", o.caFile)
	}
	return t, nil
}

// flagsIn changes the settings' names in cures to those of flags.
var flagsIn = strings.NewReplacer(
	"tls::ca_file", "--ca-file", "tls::cert_file", "--cert-file", "tls::key_file", "--key-file",
	"endpoint", "--url", ", or tls::server_name_override to it", "",
	": see tls::min_version, tls::max_version and tls::cipher_suites", ": want TLS 1.2 or later",
	"raise timeout", "raise --timeout", "proxy_url, or ", "",
).Replace

// clients returns a client that sends requests and one that reads llama-server's
// metrics.
func (o *options) clients(transport http.RoundTripper) (*completion.Client, *llamaserver.Client, error) {
	header := http.Header{}
	for _, h := range o.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, nil, fmt.Errorf("--header %q: want 'Name: value'", name)
		}
		header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	h := &http.Client{Transport: transport}
	client, err := completion.New(o.url, h, completion.Options{
		APIKey: o.apiKey, Header: header, RenameCure: flagsIn,
		ConnectTimeout: o.connectTimeout, FirstTokenTimeout: o.firstToken, Timeout: o.timeout,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("--url: %w", err)
	}
	const maxAnswer = 4 << 20
	server, err := llamaserver.New(o.url, h, o.apiKey, maxAnswer)
	if err != nil {
		return nil, nil, fmt.Errorf("--url: %w", err)
	}
	server.RenameCures(flagsIn)
	return client, server, nil
}

// workload returns what is sent, and a description of its prompts for people.
func (o *options) workload(ctx context.Context, transport http.RoundTripper) (*workload.Workload, string, error) {
	s := workload.Settings{
		Model: o.model, Seed: o.seed, Stream: !o.noStream, IgnoreEOS: o.ignoreEOS,
		CancelShare: o.cancelShare, CancelAfter: o.cancelAfter, Repeat: o.repeatPrompts, NoCache: o.noCache,
	}
	var err error
	if s.Endpoint, err = completion.ParseEndpoint(o.endpoint); err != nil {
		return nil, "", usageError{fmt.Errorf("--endpoint: %w", err)}
	}
	if s.Endpoint == completion.Embeddings {
		s.Stream = false
	}
	if s.MaxTokens, err = workload.ParseRange(o.maxTokens); err != nil {
		return nil, "", usageError{fmt.Errorf("--max-tokens: %w", err)}
	}
	if o.turns != "" {
		if s.Turns, err = workload.ParseRange(o.turns); err == nil && s.Turns.Min < 1 {
			err = fmt.Errorf("%s turns: want 1 or more", s.Turns)
		}
		if err != nil {
			return nil, "", usageError{fmt.Errorf("--turns: %w", err)}
		}
	}
	if o.temperature != "server" {
		t, err := workload.ParseInterval(o.temperature)
		if err != nil {
			return nil, "", usageError{fmt.Errorf("--temperature: %w", err)}
		}
		s.Temperature = &t
	}
	source, words, err := o.source(ctx, transport)
	if err != nil {
		return nil, "", err
	}
	w, err := workload.New(s, source)
	if err != nil {
		return nil, "", usageError{err}
	}
	return w, words, nil
}

func (o *options) source(ctx context.Context, transport http.RoundTripper) (workload.Source, string, error) {
	switch {
	case o.recorded.hasLengths():
		return o.replayed(ctx, transport)
	case o.promptTokens != "":
		l, err := workload.ParseLengths(o.promptTokens)
		if err != nil {
			return nil, "", usageError{fmt.Errorf("--prompt-tokens: %w", err)}
		}
		l.ColdDepth, l.Shared = o.coldDepth, o.sharedPrefix
		s, err := workload.NewSynthetic(ctx, o.tokenizer(transport), l, o.seed)
		return s, "synthetic prompts of " + o.promptTokens + " tokens", err
	case o.coldDepth || o.sharedPrefix != 0:
		return nil, "", usageError{errors.New("--cold-depth and --shared-prefix apply to synthetic prompts: want --prompt-tokens with them")}
	case o.promptFile != "":
		content, err := os.ReadFile(o.promptFile)
		if err != nil {
			return nil, "", usageError{fmt.Errorf("--prompts: %w", err)}
		}
		p, err := workload.Parse(content, o.promptFile)
		if err != nil {
			return nil, "", usageError{fmt.Errorf("--prompts: %w", err)}
		}
		return p, "prompts of " + o.promptFile, nil
	case len(o.prompts) > 0:
		p, err := workload.Inline(o.prompts...)
		if err != nil {
			return nil, "", usageError{fmt.Errorf("--prompt: %w", err)}
		}
		return p, fmt.Sprintf("%d prompts of the command line", len(o.prompts)), nil
	}
	return workload.Builtin(), "10 built-in prompts", nil
}
