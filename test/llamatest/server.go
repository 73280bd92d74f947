// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamatest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

// Options are the settings of a llama-server process. The zero value is a
// server of the tiny model with 4 slots of 2048 tokens and all endpoints on.
type Options struct {
	// Model is the model to serve (default tinygguf.Tiny).
	Model tinygguf.Model
	// Args are further arguments; they come last.
	Args []string
	// Slots is -np (default 4).
	Slots int
	// Context is -c, the context of all slots together (default 2048 a slot).
	Context int
	// APIKey is --api-key.
	APIKey string
	// NoMetrics leaves --metrics out, NoSlots gives --no-slots.
	NoMetrics, NoSlots bool
	// Env are further environment variables, as NAME=value.
	Env []string
	// Router makes the server a router of several models.
	Router *Router
	// Port is the port to listen on; 0 takes a free one.
	Port int
	// WithoutWait returns before the server is healthy.
	WithoutWait bool
	// LogDir is the folder for the server's log (default the system's
	// temporary folder, or the test's).
	LogDir string
	// LogFile is the file that the server's log is appended to; each process
	// opens it anew, as a shell's >> does. Default is a new one in LogDir.
	LogFile string
}

// Router is router mode.
type Router struct {
	// Models are the models by their ids.
	Models map[string]tinygguf.Model
	// Broken are ids of models that fail to load.
	Broken []string
	// Max is --models-max (default llama-server's own).
	Max int
}

// Server is a llama-server process.
type Server struct {
	// Port is where it listens on 127.0.0.1.
	Port int
	// PID is the number of the present process.
	PID int

	o       Options
	b       Binary
	args    []string
	log     string
	cmd     *exec.Cmd
	exited  chan struct{}
	release []func() error
}

// Start runs a llama-server until the end of the test, and fails the test where
// that is impossible.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	o.LogDir = cmp.Or(o.LogDir, tb.TempDir())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := Run(ctx, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("end of llama-server's log:\n%s", s.LogTail(4000))
		}
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// Run runs a llama-server. Close ends it, and so does the end of this program.
func Run(ctx context.Context, o Options) (*Server, error) {
	b, err := Find()
	if err != nil {
		return nil, err
	}
	o.Slots = cmp.Or(o.Slots, 4)
	o.Context = cmp.Or(o.Context, 2048*o.Slots)
	if o.Model == (tinygguf.Model{}) {
		o.Model = tinygguf.Tiny
	}
	s := &Server{o: o, b: b}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	// A free port may be taken by another program before the server has it.
	for attempt := 1; ; attempt++ {
		err = s.start(ctx)
		if err == nil {
			return s, nil
		}
		if attempt == 3 || o.Port != 0 || ctx.Err() != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.Kill()
	}
}

// prepare makes the model files, the log and the arguments.
func (s *Server) prepare() error {
	s.log = s.o.LogFile
	if s.log == "" {
		f, err := os.CreateTemp(s.o.LogDir, "llama-server-*.log")
		if err != nil {
			return fmt.Errorf("log of llama-server: %w", err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("log of llama-server: %w", err)
		}
		s.log = f.Name()
	}

	s.args = []string{
		"--host", "127.0.0.1", "-t", "1", "-np", strconv.Itoa(s.o.Slots), "-c", strconv.Itoa(s.o.Context),
		"--sse-ping-interval", "1",
	}
	if !s.o.NoMetrics {
		s.args = append(s.args, "--metrics")
	}
	if s.o.NoSlots {
		s.args = append(s.args, "--no-slots")
	}
	if s.o.APIKey != "" {
		s.args = append(s.args, "--api-key", s.o.APIKey)
	}
	if s.o.Router != nil {
		return s.prepareRouter()
	}
	path, err := s.b.modelFile(s.o.Model)
	if err != nil {
		return err
	}
	s.args = append(s.args, "-m", s.b.seen(path), "-a", s.o.Model.Name)
	return nil
}

func (s *Server) prepareRouter() error {
	r := s.o.Router
	if err := os.MkdirAll(s.b.Models, 0o755); err != nil {
		return fmt.Errorf("models of llama-server: %w", err)
	}
	dir, err := os.MkdirTemp(s.b.Models, "router-")
	if err != nil {
		return fmt.Errorf("models of llama-server: %w", err)
	}
	s.release = append(s.release, func() error { return os.RemoveAll(dir) })
	for id, m := range r.Models {
		path, err := s.b.modelFile(m)
		if err != nil {
			return err
		}
		if err := os.Link(path, filepath.Join(dir, id+".gguf")); err != nil {
			return fmt.Errorf("models of llama-server: %w", err)
		}
	}
	// What a download that was cut short leaves: a good header, too few weights.
	var b bytes.Buffer
	if _, err := tinygguf.Tiny.WriteTo(&b); err != nil {
		return err
	}
	for _, id := range r.Broken {
		if err := os.WriteFile(filepath.Join(dir, id+".gguf"), b.Bytes()[:b.Len()/2], 0o644); err != nil {
			return fmt.Errorf("models of llama-server: %w", err)
		}
	}
	s.args = append(s.args, "--models-dir", s.b.seen(dir))
	if r.Max > 0 {
		s.args = append(s.args, "--models-max", strconv.Itoa(r.Max))
	}
	if s.b.Root != "" {
		unmount, err := mountProc(s.b.Root)
		if err != nil {
			return err
		}
		s.release = append(s.release, unmount)
	}
	return nil
}

func (s *Server) start(ctx context.Context) error {
	if s.Port = s.o.Port; s.Port == 0 {
		var err error
		if s.Port, err = freeport.Find(0); err != nil {
			return err
		}
	}
	if err := s.launch(); err != nil || s.o.WithoutWait {
		return err
	}
	return s.WaitHealthy(ctx)
}

func (s *Server) launch() error {
	args := append([]string{"--port", strconv.Itoa(s.Port)}, append(s.args, s.o.Args...)...)
	cmd := s.b.command(context.Background(), args...)
	cmd.Env = append(os.Environ(), s.o.Env...)
	log, err := os.OpenFile(s.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("log of llama-server: %w", err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w: %s", s.b.Path, err, Cure)
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait() // how it ended does not matter: it was told to, or the log says why
		close(exited)
	}()
	s.cmd, s.PID, s.exited = cmd, cmd.Process.Pid, exited
	return nil
}

// URL is the base URL.
func (s *Server) URL() string { return fmt.Sprintf("http://127.0.0.1:%d", s.Port) }

// Log is the path of the file with all that the server printed.
func (s *Server) Log() string { return s.log }

// LogTail is the end of the log, at most n bytes.
func (s *Server) LogTail(n int) string {
	b, err := os.ReadFile(s.Log())
	if err != nil {
		return err.Error()
	}
	if len(b) > n {
		b = b[len(b)-n:]
		b = b[bytes.IndexByte(b, '\n')+1:]
	}
	return string(b)
}

// Client makes requests of the server.
func (s *Server) Client() *Client { return &Client{BaseURL: s.URL(), APIKey: s.o.APIKey} }

// WaitHealthy waits until /health answers 200.
func (s *Server) WaitHealthy(ctx context.Context) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	for {
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/health", nil)
		if err != nil {
			return err
		}
		r, err := client.Do(q)
		if err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("GET %s/health: %s", s.URL(), r.Status)
		}
		select {
		case <-s.exited:
			return fmt.Errorf("llama-server ended at its start: %s: its log ends with\n%s", s.cmd.ProcessState, s.LogTail(2000))
		case <-ctx.Done():
			return fmt.Errorf("llama-server is not healthy: %w: %w: its log ends with\n%s", ctx.Err(), err, s.LogTail(2000))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Terminate ends the server as SIGTERM does, with SIGKILL after 10 s.
func (s *Server) Terminate() {
	if s.running() {
		s.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has just ended
		select {
		case <-s.exited:
		case <-time.After(10 * time.Second):
		}
	}
	s.Kill()
}

// Kill ends the server, and a router's children, as SIGKILL does.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	killGroup(s.PID) // an error means that all have ended
	<-s.exited
}

func (s *Server) running() bool {
	if s.cmd == nil {
		return false
	}
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// Exited is closed when the present process has ended.
func (s *Server) Exited() <-chan struct{} { return s.exited }

// Restart ends the process, if it still runs, and starts another with the same
// port and options. Options.WithoutWait holds here too.
func (s *Server) Restart(ctx context.Context) error {
	s.Terminate()
	if err := s.launch(); err != nil || s.o.WithoutWait {
		return err
	}
	return s.WaitHealthy(ctx)
}

// Close ends the server and removes what was made for it, except model files
// and the log.
func (s *Server) Close() error {
	s.Terminate()
	var errs []error
	for i := len(s.release) - 1; i >= 0; i-- {
		errs = append(errs, s.release[i]())
	}
	s.release = nil
	return errors.Join(errs...)
}

// Words is a prompt of n words that are one token each, so n+1 tokens with the
// beginning-of-text token. Different seeds differ at the first word, so that
// nothing of one is found in the cache of another, as long as the seeds are
// less than the number of words (some 200) apart.
func Words(n int, seed uint64) string {
	list := tinygguf.Words()
	out := make([]string, n)
	i := seed % uint64(len(list))
	for j := range out {
		out[j] = list[i]
		i = (i + 1 + seed%7) % uint64(len(list))
	}
	return strings.Join(out, " ")
}
