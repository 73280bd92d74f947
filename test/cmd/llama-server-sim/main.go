// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command llama-server-sim answers like llama.cpp's llama-server without a
// model, alone or as a fleet of thousands in one process.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

const usage = `llama-server-sim answers like llama.cpp's llama-server, without a model.

  llama-server-sim --port 8080                            one server, idle
  llama-server-sim --port 8080 -load 6                    one busy server
  llama-server-sim --port 20000 -fleet 1000 -load 3       1,000 busy servers on ports 20000 to 20999
  llama-server-sim --port 8080 -models a,b,c              a router

Differences from llama-server: --metrics is on unless --metrics=false, -c is
divided by -np even where -np is not given, and the log is off unless -log names
a file. It runs until SIGTERM or Ctrl-C.

Flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "llama-server-sim:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("llama-server-sim", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, usage)
		fs.PrintDefaults()
	}
	var (
		o       llamasim.Options
		l       llamasim.Load
		context int
		host    = fs.String("host", "127.0.0.1", "`address` to listen on")
		port    = fs.Int("port", 8080, "port of the first server; 0 takes any free one")
		fleet   = fs.Int("fleet", 1, "number of servers, on consecutive ports")
		noSlots = fs.Bool("no-slots", false, "answer 501 on /slots")
		metrics = fs.Bool("metrics", true, "answer on /metrics")
		sleep   = fs.Int("sleep-idle-seconds", 0, "unload the model after so many idle `seconds`; 0 never does")
		build   = fs.String("build", "current", "generation of llama-server: current, old or future")
		models  = fs.String("models", "", "comma-separated `names`: be a router of these models")
		logFile = fs.String("log", "", "`file` to append the log to, as llama-server writes it to standard error; - is standard error")
		max     = fs.Int("models-max", 4, "most models that a router loads at once")
	)
	for _, name := range []string{"np", "parallel"} {
		fs.IntVar(&o.Slots, name, 4, "number of slots")
	}
	for _, name := range []string{"c", "ctx-size"} {
		fs.IntVar(&context, name, 8192, "context of all slots together, in `tokens`")
	}
	for _, name := range []string{"a", "alias"} {
		fs.StringVar(&o.ModelName, name, "sim", "model `name`; a fleet appends -0, -1 and so on")
	}
	fs.IntVar(&o.BatchTokens, "b", 2048, "batch: the step of prompt progress, in `tokens`")
	fs.StringVar(&o.APIKey, "api-key", "", "comma-separated API `keys`")
	fs.StringVar(&o.Prefix, "api-prefix", "", "path `prefix` of every endpoint")
	fs.DurationVar(&o.LoadTime, "load-time", 0, "answer 503 for so long after the start")
	fs.Float64Var(&o.TokensPerSecond, "tokens-per-second", 100, "generation speed of each slot")
	fs.Float64Var(&o.PromptTokensPerSecond, "prompt-tokens-per-second", 2000, "prompt speed of a server")
	fs.IntVar(&l.Concurrency, "load", 0, "requests that each server keeps under way by itself")
	fs.IntVar(&l.PromptTokens, "load-prompt", 64, "prompt `tokens` of these requests")
	fs.IntVar(&l.MaxTokens, "load-max", 128, "generated `tokens` of these requests")
	fs.DurationVar(&l.ThinkTime, "load-think", 0, "pause between an answer and the next request")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("argument %q is not a flag: see --help", fs.Arg(0))
	}
	if *fleet < 1 || o.Slots < 1 || context < o.Slots {
		return fmt.Errorf("-fleet %d, -np %d, -c %d: need at least 1 server, 1 slot and 1 token for each slot", *fleet, o.Slots, context)
	}
	b, ok := map[string]llamasim.Build{"current": llamasim.Current, "old": llamasim.Old, "future": llamasim.Future}[*build]
	if !ok {
		return fmt.Errorf("-build %s: use current, old or future", *build)
	}
	o.Build, o.NoMetrics, o.NoSlots = b, !*metrics, *noSlots
	o.ContextPerSlot = context / o.Slots
	o.SleepAfter = time.Duration(*sleep) * time.Second
	if *models != "" {
		o.Router = &llamasim.RouterOptions{Models: strings.Split(*models, ","), MaxLoaded: *max}
	}

	switch {
	case *logFile == "":
	case *fleet > 1:
		return errors.New("-log is for one server: leave -fleet out")
	case *logFile == "-":
		o.Log = stderr
	default:
		log, err := os.OpenFile(*logFile, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		if err != nil {
			return fmt.Errorf("-log: %w", err)
		}
		defer log.Close()
		o.Log = log
	}

	name := o.ModelName
	for i := range *fleet {
		o.Seed = uint64(i)
		if *fleet > 1 {
			o.ModelName = fmt.Sprintf("%s-%d", name, i)
		}
		p := 0
		if *port > 0 {
			p = *port + i
		}
		s := llamasim.New(o)
		defer s.Close()
		if l.Concurrency > 0 {
			s.AddLoad(l)
		}
		url, err := s.Start(net.JoinHostPort(*host, strconv.Itoa(p)))
		if err != nil {
			return fmt.Errorf("server %d of %d: %w: choose other ports with --port", i+1, *fleet, err)
		}
		fmt.Fprintln(stdout, url)
	}
	<-ctx.Done()
	return nil
}
