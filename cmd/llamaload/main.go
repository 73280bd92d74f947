// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command llamaload puts an inference server under a measured load.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes. They are a contract with scripts.
const (
	exitDone   = 0
	exitFailed = 1 // the run failed or was interrupted
	exitUsage  = 2
	exitFailIf = 3 // a --fail-if came true
)

// usageError is an error in the command line.
type usageError struct{ error }

var (
	errInterrupted = errors.New("interrupted")
	errFailIf      = errors.New("a --fail-if came true")
)

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		fmt.Fprintln(os.Stderr, "\nllamaload: interrupted: ending with a report; once more ends at once")
		cancel(errInterrupted)
		<-signals
		os.Exit(exitFailed)
	}()
	// A collection of garbage delays the requests that are due meanwhile. It starts when
	// the heap has doubled; a reserve of memory that is never touched, and so costs
	// nothing, makes a small heap grow by as much first.
	reserve := make([]byte, 32<<20)
	code := execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
	runtime.KeepAlive(reserve)
	os.Exit(code)
}

// execute runs the command with the arguments and returns its exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "llamaload",
		Short:         "Put an inference server under a measured load",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("no command: want run, replay, saturate, sweep, matrix or compare; see llamaload --help")}
		},
	}
	begun := false // an error of cobra before that is wrong usage
	for _, c := range []*cobra.Command{
		runCommand(stdout, stderr), replayCommand(stdout, stderr), saturateCommand(stdout, stderr), sweepCommand(stdout, stderr),
		matrixCommand(stdout, stderr), compareCommand(stdout, stderr),
	} {
		run := c.RunE
		c.RunE = func(c *cobra.Command, args []string) error {
			begun = true
			return run(c, args)
		}
		root.AddCommand(c)
		complete(c)
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w: see %s --help", err, c.CommandPath())}
	})
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintln(stderr, "llamaload:", err)
	var usage usageError
	switch {
	case errors.As(err, &usage), !begun:
		return exitUsage
	case errors.Is(err, errFailIf):
		return exitFailIf
	}
	return exitFailed
}
