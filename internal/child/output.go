// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package child

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
)

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

// Tail keeps the last lines that are written to it.
type Tail struct {
	mu    sync.Mutex
	lines [][]byte
	part  []byte
}

const (
	tailLines = 15
	lineBytes = 1000
)

func (t *Tail) Write(b []byte) (int, error) {
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

// String returns the lines, each indented by two spaces.
func (t *Tail) String() string {
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
