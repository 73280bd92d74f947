// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package child runs a program in the background, asks it to end and waits
// until it has.
package child // import "github.com/llamatelemetry/otelcol-llamacpp/internal/child"

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
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
// it ends when this program does, however that ends, and it has a process group
// of its own: Ctrl-C at the terminal does not reach it, and what it started ends
// with it.
func Start(cmd *exec.Cmd, output io.Writer) (*Process, error) {
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = sysProcAttr()
	// A grandchild that keeps the streams open does not hold the end back.
	cmd.WaitDelay = time.Second
	p := &Process{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// To the kernel, the parent that must not end is the thread that started the
		// program.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		_ = killGroup(p.PID()) // an error means that nobody is left
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
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

// Kill ends the process, and on Linux its group, as SIGKILL does, and waits for it.
func (p *Process) Kill() {
	// An error means that it has just ended.
	_ = p.cmd.Process.Kill()
	_ = killGroup(p.PID())
	<-p.exited
}
