// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
)

// journal is a file that keeps the finished runs of a grid, one line of JSON each,
// so that an interrupted one can go on. Its first line tells what the runs are of.
// Failures are not kept: they are tried again.
type journal struct {
	path    string
	file    *os.File
	entries []entry
}

// origin is what all runs of a journal have in common.
type origin struct {
	Kind     string            `json:"llamaload"` // sweep or matrix
	Seed     uint64            `json:"seed"`
	Command  []string          `json:"command,omitempty"`
	Settings map[string]string `json:"settings"`
}

type entry struct {
	Cell   string          `json:"cell"`
	Run    int             `json:"run"`
	Server *serverState    `json:"server,omitempty"`
	Report *loadgen.Report `json:"report"`
}

// openJournal opens or creates a journal. One that exists has to have the same
// origin. If no seed was given, that of the journal is taken.
func openJournal(path string, o *origin, seedGiven bool) (*journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--resume: %w", err)
	}
	j := &journal{path: path, file: f}
	if err := j.begin(o, seedGiven); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return j, nil
}

// begin reads the file, or writes its first line.
func (j *journal) begin(o *origin, seedGiven bool) error {
	content, err := io.ReadAll(j.file)
	if err != nil {
		return fmt.Errorf("--resume: %w", err)
	}
	if len(content) == 0 {
		return j.write(o)
	}
	// A line that was being written when the power failed has no end.
	whole := content[:bytes.LastIndexByte(content, '\n')+1]
	first, rest, _ := bytes.Cut(whole, []byte("\n"))
	var begun origin
	if err := json.Unmarshal(first, &begun); err != nil || begun.Kind == "" {
		return usageError{fmt.Errorf("--resume: %s is not of llamaload %s: want another file", j.path, o.Kind)}
	}
	if !seedGiven {
		o.Seed = begun.Seed
	}
	if what := begun.differs(o); what != "" {
		return usageError{fmt.Errorf("--resume: %s was begun with %s: want the same again, or another file", j.path, what)}
	}
	for n := 2; len(rest) > 0; n++ {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		e, err := parseEntry(line)
		if err != nil {
			return usageError{fmt.Errorf("--resume: %s:%d: %w: delete the line, or want another file", j.path, n, err)}
		}
		j.entries = append(j.entries, e)
	}
	return j.cut(int64(len(whole)))
}

func parseEntry(line []byte) (entry, error) {
	var e entry
	if err := json.Unmarshal(line, &e); err != nil {
		return e, err
	}
	if e.Report == nil {
		return e, errors.New("no run")
	}
	return e, checkReport(e.Report)
}

// differs says what the two differ in: the former's value, and the other's.
func (o *origin) differs(other *origin) string {
	switch {
	case o.Kind != other.Kind:
		return "llamaload " + o.Kind + ", this is " + other.Kind
	case !slices.Equal(o.Command, other.Command):
		return fmt.Sprintf("the command %q, this is %q", strings.Join(o.Command, " "), strings.Join(other.Command, " "))
	case o.Seed != other.Seed:
		return fmt.Sprintf("--seed %d, this is %d", o.Seed, other.Seed)
	}
	names := slices.Collect(maps.Keys(o.Settings))
	for name := range other.Settings {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if a, b := o.Settings[name], other.Settings[name]; a != b {
			return fmt.Sprintf("--%s %q, this is %q", name, a, b)
		}
	}
	return ""
}

// cut ends the file after its first n bytes.
func (j *journal) cut(n int64) error {
	if err := j.file.Truncate(n); err != nil {
		return fmt.Errorf("--resume: %w", err)
	}
	if _, err := j.file.Seek(n, io.SeekStart); err != nil {
		return fmt.Errorf("--resume: %w", err)
	}
	return nil
}

// write appends a line that stays even if the machine fails.
func (j *journal) write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("--resume: %w", err)
	}
	if _, err := j.file.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("--resume: %w: the last run is not in it", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("--resume: %w: the last run may not be in it", err)
	}
	return nil
}

// add appends run n of a cell.
func (j *journal) add(c *cell, n int, axes []string) error {
	return j.write(entry{c.key(axes), n, c.server, c.runs[n]})
}

// restore gives a cell its runs.
func (j *journal) restore(c *cell, axes []string) {
	for _, e := range j.entries {
		if e.Cell == c.key(axes) && e.Run == len(c.runs) {
			c.runs = append(c.runs, e.Report)
			c.server = e.Server
		}
	}
}

func (j *journal) close() error { return j.file.Close() }

// aside are flags that do not affect what is measured, or say how much of it.
var aside = []string{
	"api-key", "ca-file", "cert-file", "key-file", "help", "json", "csv", "markdown", "html", "resume", "repeat", "until", "max-repeats", "seed",
	"start-timeout", "vary", "restart",
}

// settingsOf returns the flags that affect what is measured, except for those named.
// Of headers, which may hold keys, and of files it has checksums.
func settingsOf(f *pflag.FlagSet, except ...string) map[string]string {
	all := map[string]string{}
	f.VisitAll(func(flag *pflag.Flag) {
		name, value := flag.Name, flag.Value.String()
		if slices.Contains(aside, name) || slices.Contains(except, name) {
			return
		}
		switch name {
		case "header":
			if flag.Changed {
				value = checksum([]byte(value))
			}
		case "prompts", "replay":
			if content, err := os.ReadFile(value); err == nil {
				value += " " + checksum(content)
			}
		}
		all[name] = value
	})
	return all
}

func checksum(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b))[:23] }
