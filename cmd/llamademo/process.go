// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/child"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
)

// stopTimeout is how long a program may take to stop when asked to.
const stopTimeout = 10 * time.Second

// process is a program under way, with the end of what it printed.
type process struct {
	*child.Process
	output *tail
}

// startProcess starts a program, all of whose output also goes to log, unless
// that is nil.
func startProcess(cmd *exec.Cmd, log io.Writer) (*process, error) {
	last := &tail{}
	var output io.Writer = last
	if log != nil {
		output = io.MultiWriter(last, log)
	}
	p, err := child.Start(cmd, output)
	if err != nil {
		return nil, err
	}
	return &process{p, last}, nil
}

// stop ends the program. How it ended, its output says.
func (p *process) stop() { _ = p.Terminate(stopTimeout) }

// tail keeps the last lines that were written to it.
type tail struct {
	mu    sync.Mutex
	lines [][]byte
	part  []byte
}

const (
	tailLines = 15
	lineBytes = 1000
)

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(b)
	for {
		line, rest, complete := bytes.Cut(b, []byte("\n"))
		if room := lineBytes - len(t.part); len(line) > room {
			line = line[:room]
		}
		t.part = append(t.part, line...)
		if !complete {
			return n, nil
		}
		t.lines = append(t.lines, t.part)
		if len(t.lines) > tailLines {
			t.lines = t.lines[1:]
		}
		t.part, b = nil, rest
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var s strings.Builder
	for _, line := range t.lines {
		fmt.Fprintf(&s, "  %s\n", line)
	}
	if len(t.part) > 0 {
		fmt.Fprintf(&s, "  %s\n", t.part)
	}
	return strings.TrimSuffix(s.String(), "\n")
}

// portVariable is NAME=port for a port that is free now: the one that the
// variable asks for already, or else the usual one, where possible.
func portVariable(name string, usual int) (variable string, port int, err error) {
	if wanted := os.Getenv(name); wanted != "" {
		if usual, err = strconv.Atoi(wanted); err != nil {
			return "", 0, fmt.Errorf("%s=%s is not a port: set a number, or unset the variable", name, wanted)
		}
	}
	port, err = freeport.Find(usual)
	return fmt.Sprintf("%s=%d", name, port), port, err
}
