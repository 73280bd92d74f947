// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package simfleet runs simulated servers in a process of their own, so that
// their CPU time is not taken for that of what is measured.
package simfleet

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"strconv"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

const role = "LLAMACPP_BENCH_SIMULATE"

// Main turns this process into the simulator where Start has started it for
// that. Programs call it first.
func Main() {
	n, err := strconv.Atoi(os.Getenv(role))
	if err != nil {
		return
	}
	for i := range n {
		s := llamasim.New(llamasim.Options{ModelName: fmt.Sprintf("sim-%d", i), Seed: uint64(i)})
		s.AddLoad(llamasim.Load{Concurrency: 2, PromptTokens: 64, MaxTokens: 128})
		url, err := s.Start("127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(url)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // ends with the process that started us
	os.Exit(0)
}

// Fleet is a running simulator.
type Fleet struct {
	URLs []string

	cmd *exec.Cmd
	in  io.Closer
}

// Start starts a simulator of n busy servers: 4 slots each, of which 2 serve
// requests of 64 + 128 tokens at 100 tokens/s, one after the other. It runs at
// a low priority, to leave the cores to what is measured.
func Start(n int) (*Fleet, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f := &Fleet{cmd: exec.Command("nice", "-n", "10", self)}
	f.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", role, n))
	f.cmd.Stderr = os.Stderr
	if f.in, err = f.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	for len(f.URLs) < n && lines.Scan() {
		f.URLs = append(f.URLs, lines.Text())
	}
	if len(f.URLs) < n {
		f.Stop()
		return nil, fmt.Errorf("only %d of %d simulated servers started", len(f.URLs), n)
	}
	return f, nil
}

// PID is the process number.
func (f *Fleet) PID() int { return f.cmd.Process.Pid }

// Stop ends the simulator.
func (f *Fleet) Stop() {
	_ = f.in.Close()
	_ = f.cmd.Wait()
}
