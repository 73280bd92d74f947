// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

// maxPositions bounds the files that are remembered: the current one and some
// that were rotated away.
const maxPositions = 16

// position is the last record that was taken in from a file. A receiver that is
// stopped before it has noted how far it got reads records again: these are
// recognized by it.
type position struct {
	// File is what stays the file's own when it is renamed.
	File fileID `json:"file"`
	// Offset of the record, its Length in bytes, and its Hash.
	Offset int64  `json:"offset"`
	Length int    `json:"length"`
	Hash   uint64 `json:"hash"`
}

// fileID tells files apart on one machine.
type fileID struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

// positions of the files of one source, the one used last at the end.
type positions []position

// files are those that a batch of records came from, looked at once.
type files map[string]*file

type file struct {
	path     string
	id       fileID
	size     int64
	modified time.Time
	ok       bool // it is a file of this machine that can be looked at
	// last is what the processes' clocks, by child, show at the end of the file;
	// nil until it is needed.
	last map[int]time.Duration
	// repeats reports whether the file still has the record of its position; nil
	// until it is needed.
	repeats *bool
}

func (f files) get(path string) *file {
	if known := f[path]; known != nil {
		return known
	}
	looked := &file{path: path}
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		looked.size, looked.modified = info.Size(), info.ModTime()
		looked.id, looked.ok = fileIDOf(info)
	}
	f[path] = looked
	return looked
}

// seen reports whether the record was taken in before, and notes it if not. A
// file that was truncated begins again at offset 0 without repeating anything:
// it has another record at the position.
func (p *positions) seen(f *file, path string, offset int64, record string) bool {
	if !f.ok {
		return false
	}
	record = strings.TrimRight(record, "\r\n") // in Docker's JSON it is escaped
	i := slices.IndexFunc(*p, func(known position) bool { return known.File == f.id })
	if i >= 0 {
		known := (*p)[i]
		if offset <= known.Offset {
			if f.repeats == nil {
				holds := known.holds(path)
				f.repeats = &holds
			}
			if *f.repeats {
				return true
			}
		}
		*p = slices.Delete(*p, i, i+1)
	} else if len(*p) == maxPositions {
		*p = slices.Delete(*p, 0, 1)
	}
	*p = append(*p, position{File: f.id, Offset: offset, Length: len(record), Hash: xxhash.Sum64String(record)})
	return false
}

// maxLead bounds, in bytes, what a line has in front of its record: white space
// that the source trimmed, or what a container's runtime puts there.
const maxLead = 256

// holds reports whether the record is still in the line that begins at its offset.
func (p position) holds(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // it was only read
	b := make([]byte, p.Length+maxLead)
	n, _ := f.ReadAt(b, p.Offset)
	b = bytes.TrimLeft(b[:n], " \t\r\n")
	for len(b) >= p.Length {
		if xxhash.Sum64(b[:p.Length]) == p.Hash {
			return true
		}
		if b[0] == '\n' {
			break
		}
		b = b[1:]
	}
	return false
}
