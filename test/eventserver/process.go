// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package eventserver

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
)

const role = "LLAMACPP_EVENT_SERVER"

// Main turns this process into the server if Start has started it for that. Programs
// and TestMain call it first.
func Main() {
	if os.Getenv(role) != "" {
		serve()
	}
}

// Server is a server in another process.
type Server struct {
	// URL is its base URL.
	URL string

	cmd   *exec.Cmd
	stdin io.Closer
}

// Start starts this program as a server, with the given words before it, such as
// taskset -c 0.
func Start(before ...string) (*Server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := slices.Concat(before, []string{self})
	s := &Server{cmd: exec.Command(args[0], args[1:]...)}
	s.cmd.Env = append(os.Environ(), role+"=1")
	s.cmd.Stderr = os.Stderr
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the event server: %w", err)
	}
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("address of the event server: %w", err)
	}
	s.URL = "http://" + strings.TrimSpace(address)
	return s, nil
}

// PID is the process number.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Record returns what the server has seen since the last call.
func (s *Server) Record(ctx context.Context) (*Record, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+recordPath, http.NoBody)
	if err != nil {
		return nil, err
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	var record Record
	if err := json.NewDecoder(r.Body).Decode(&record); err != nil {
		return nil, fmt.Errorf("record of the event server: %w", err)
	}
	return &record, nil
}

// Close ends the server.
func (s *Server) Close() error {
	_ = s.stdin.Close()
	return s.cmd.Wait()
}
