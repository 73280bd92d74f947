// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopTimeout is how long a program may take to stop when asked to.
const stopTimeout = 10 * time.Second

// process is a program under way.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended and its output is complete
	output *tail
}

// startProcess starts a program and keeps the end of its output, and all of it
// in log, unless that is nil.
func startProcess(cmd *exec.Cmd, log io.Writer) (*process, error) {
	p := &process{cmd: cmd, exited: make(chan struct{}), output: &tail{}}
	var output io.Writer = p.output
	if log != nil {
		output = io.MultiWriter(p.output, log)
	}
	cmd.Stdout, cmd.Stderr = output, output
	// A grandchild that keeps the output open does not hold the end back.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.exited)
		_ = cmd.Wait() // how it ended is told by what it printed
	}()
	return p, nil
}

// stop asks the program to end, waits, and kills it when it takes too long.
func (p *process) stop() {
	if p.cmd.Process.Signal(syscall.SIGTERM) != nil {
		_ = p.cmd.Process.Kill()
	}
	select {
	case <-p.exited:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

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

// freePort is the wanted port on the loopback address, or another where that
// one is taken. Empty or 0 is any.
func freePort(wanted string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort("localhost", wanted)) //nolint:noctx // Resolves no name but localhost.
	if err != nil {
		if l, err = net.Listen("tcp", "localhost:0"); err != nil { //nolint:noctx // As above.
			return "", err
		}
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return "", err
	}
	return port, l.Close()
}

// portVariable is NAME=port for a port that is free now: the one that the
// variable asks for already, or else the usual one, where possible.
func portVariable(name, usual string) (variable, port string, err error) {
	wanted := os.Getenv(name)
	if wanted == "" {
		wanted = usual
	}
	port, err = freePort(wanted)
	return name + "=" + port, port, err
}
