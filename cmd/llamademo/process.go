// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
)

// stopTimeout is how long a program may take to stop when asked to.
const stopTimeout = 10 * time.Second

// process is a program under way, with the end of what it printed.
type process struct {
	*child.Process
	output *child.Tail
}

// startProcess starts a program, all of whose output also goes to log, unless
// that is nil.
func startProcess(cmd *exec.Cmd, log io.Writer) (*process, error) {
	last := &child.Tail{}
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
