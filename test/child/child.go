// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package child runs a program in the background, asks it to end and waits
// until it has.
package child

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Process is a program under way. Its methods may be called from any goroutine.
type Process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // of Wait; read only when exited is closed
}

// Start starts the command, which writes both its streams to output. On Linux
// it ends when this program does, however that ends.
func Start(cmd *exec.Cmd, output io.Writer) (*Process, error) {
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = sysProcAttr()
	// A grandchild that keeps the streams open does not hold the end back.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p := &Process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended and its output is complete.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// State waits for the process's end and returns how it ended.
func (p *Process) State() *os.ProcessState {
	<-p.exited
	return p.cmd.ProcessState
}

// Signal sends the process a signal.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Terminate ends the process as SIGTERM does, with SIGKILL where it takes longer
// than patience, and waits for it. An end that was not a good one is an error,
// and so is one that came before.
func (p *Process) Terminate(patience time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		<-p.exited
		return errors.Join(fmt.Errorf("terminate %s: %w", p.cmd.Path, err), p.err)
	}
	select {
	case <-p.exited:
		return p.err
	case <-time.After(patience):
		p.Kill()
		return fmt.Errorf("terminate %s: not ended within %s: killed", p.cmd.Path, patience)
	}
}

// Kill ends the process as SIGKILL does, and waits for it.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // an error means that it has just ended
	<-p.exited
}

// Output keeps all that is written to it.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
