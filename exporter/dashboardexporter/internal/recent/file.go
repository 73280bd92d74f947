// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package recent // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/recent"

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"
)

// fileName is the name of the file with the requests, one in a line as JSON.
const fileName = "requests.jsonl"

// maxLine is the longest line that is read: names and errors have a limit.
const maxLine = 16 << 10

// file keeps requests on disk. Each is appended when it is added, so that a kill
// loses none. When most of the lines are of requests that are no longer kept, the
// file is written anew.
type file struct {
	path string
	log  *zap.Logger

	mu     sync.Mutex
	f      *os.File // nil after Close, and while writing fails
	lines  int
	closed bool
	failed time.Time // when writing failed last, zero since it succeeded
}

// retryAfter is how long a disk that failed is left alone: the whole file is written
// then.
const retryAfter = time.Minute

// Open returns a store that keeps its requests in a directory as well, and begins
// with those that are there. One process at a time may use the directory.
func Open(directory string, l Limits, log *zap.Logger) (*Store, error) {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, fmt.Errorf("last requests: %w: choose a directory that the collector may write to", err)
	}
	s := New(l)
	s.file = &file{path: filepath.Join(directory, fileName), log: log}
	if err := s.restore(); err != nil {
		return nil, err
	}
	if err := s.file.rewrite(s.all()); err != nil {
		return nil, fmt.Errorf("last requests: %w: choose a directory that the collector may write to", err)
	}
	return s, nil
}

// restore reads the file.
func (s *Store) restore() error {
	f, err := os.Open(s.file.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("last requests: %w: let the collector read it, or delete it", err)
	}
	skipped, err := s.load(f)
	_ = f.Close() // it was read
	if err != nil {
		return fmt.Errorf("last requests: read %s: %w", s.file.path, err)
	}
	if skipped > 0 {
		s.file.log.Warn("skipped damaged lines of the last requests", zap.String("file", s.file.path), zap.Int("lines", skipped))
	}
	return nil
}

// load takes in the lines of a file and returns how many are no requests. The last
// one may have been cut by a kill.
func (s *Store) load(r io.Reader) (skipped int, err error) {
	lines := bufio.NewReaderSize(r, maxLine)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.rejoin()
	for {
		line, err := lines.ReadSlice('\n')
		whole := true
		for errors.Is(err, bufio.ErrBufferFull) {
			whole = false
			_, err = lines.ReadSlice('\n')
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return skipped, err
		}
		if line = bytes.TrimSpace(line); len(line) > 0 || !whole {
			var q Request
			if whole && json.Unmarshal(line, &q) == nil && q.plausible() {
				s.again(q)
			} else {
				skipped++
			}
		}
		if err != nil {
			return skipped, nil
		}
	}
}

// again takes in a request from the file. One that is there twice got its slot
// later. The caller holds mu.
func (s *Store) again(q Request) {
	if e := s.ids[q.ID]; e != nil {
		e.Slot, e.Task, e.Began, e.Wait = q.Slot, q.Task, q.Began, q.Wait
		e.Prompt, e.Cached, e.Generated = q.Prompt, q.Cached, q.Generated
		return
	}
	s.insert(span{Request: q})
}

// Close writes the file once more. The store stays readable.
func (s *Store) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.close(s.all)
}

// append adds requests to the file of a store.
func (f *file) append(fresh []Request, of *Store) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for i := range fresh {
		_ = e.Encode(&fresh[i]) // numbers and texts: always possible
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || !f.failed.IsZero() && time.Since(f.failed) < retryAfter {
		return
	}
	var err error
	if f.f != nil {
		_, err = f.f.Write(b.Bytes())
		f.lines += len(fresh)
	}
	const few = 500 // not worth a new file
	if f.f == nil || err != nil || f.lines > few+2*of.count() {
		// After an error the last line may be cut, and what was not written is kept
		// in memory.
		err = f.rewrite(of.all())
	}
	switch {
	case err == nil:
		f.failed = time.Time{}
		return
	case f.failed.IsZero():
		f.log.Error("the last requests are not on disk: they are lost at a restart unless a later attempt succeeds", zap.Error(err))
	}
	f.failed = time.Now()
}

func (f *file) close(all func() []Request) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	err := f.rewrite(all())
	if f.f != nil {
		err = errors.Join(err, f.f.Close())
		f.f = nil
	}
	if err != nil {
		return fmt.Errorf("last requests: %w", err)
	}
	return nil
}

// rewrite replaces the file by one with these requests, the oldest first. Whenever
// the process is killed, one of both is there in full. The caller holds mu, or has
// the file for itself.
func (f *file) rewrite(kept []Request) (err error) {
	if f.f != nil {
		_ = f.f.Close() // what it lacks is written now
		f.f = nil
	}
	next, err := os.OpenFile(f.path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(next)
	e := json.NewEncoder(w)
	for i := len(kept) - 1; i >= 0 && err == nil; i-- {
		err = e.Encode(&kept[i])
	}
	if err = errors.Join(err, w.Flush()); err == nil {
		err = next.Sync()
	}
	if err := errors.Join(err, next.Close()); err != nil {
		return err
	}
	if err := os.Rename(next.Name(), f.path); err != nil {
		return err
	}
	f.lines = len(kept)
	f.f, err = os.OpenFile(f.path, os.O_APPEND|os.O_WRONLY, 0o600)
	return err
}
