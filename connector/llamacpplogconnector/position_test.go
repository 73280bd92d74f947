// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package llamacpplogconnector

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
)

// fromFile is what a source reads of a file from an offset on. unwrap takes
// the record out of a line.
func fromFile(t *testing.T, path string, from int, unwrap func(string) string) plog.Logs {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	ld := logs(string(b[from:]), nil)
	offset := from
	for _, r := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
		line := r.Body().Str()
		r.Attributes().PutStr("log.file.path", path)
		r.Attributes().PutInt("log.file.record_offset", int64(offset))
		offset += len(line) + 1
		if unwrap != nil {
			r.Body().SetStr(unwrap(line))
		}
	}
	return ld
}

// refusal is a line that nothing but its place tells from one like it.
func refusal(i int) string {
	return fmt.Sprintf(`got exception: {"error":{"code":400,"message":"no %d","type":"invalid_request_error"}}`, i)
}

func write(t *testing.T, path string, lines ...string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	_, err = f.WriteString(strings.Join(lines, "\n") + "\n")
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

type positioned struct {
	*metricsConnector
	t    *testing.T
	path string
}

func newPositioned(t *testing.T) positioned {
	t.Helper()
	set, _ := settings()
	c := startMetrics(t, newDefaultConfig(), set, consumertest.NewNop())
	t.Cleanup(func() { require.NoError(t, c.Shutdown(t.Context())) })
	return positioned{c, t, filepath.Join(t.TempDir(), "server.log")}
}

func (p positioned) read(path string, from int) {
	p.t.Helper()
	require.NoError(p.t, p.ConsumeLogs(p.t.Context(), fromFile(p.t, path, from, nil)))
}

// counted is how many requests were refused.
func (p positioned) counted() (n int64) {
	for _, s := range p.sources {
		for _, i := range s.instances {
			for _, c := range i.statistics.Requests {
				n += c
			}
		}
	}
	return n
}

func TestPosition_RecordsReadTwiceCountOnce(t *testing.T) {
	c := newPositioned(t)
	write(t, c.path, refusal(1), refusal(1), refusal(1))
	c.read(c.path, 0)
	assert.EqualValues(t, 3, c.counted())
	c.read(c.path, 0)
	assert.EqualValues(t, 3, c.counted())
	write(t, c.path, refusal(1))
	c.read(c.path, len(refusal(1))+1)
	assert.EqualValues(t, 4, c.counted(), "two again and one that is new")

	for _, s := range c.sources { // as after a restart
		b, err := json.Marshal(s.positions)
		require.NoError(t, err)
		s.positions = nil
		require.NoError(t, json.Unmarshal(b, &s.positions))
	}
	c.read(c.path, 0)
	assert.EqualValues(t, 4, c.counted())
}

func TestPosition_RenamedFileIsTheSame(t *testing.T) {
	c := newPositioned(t)
	write(t, c.path, refusal(1), refusal(2))
	c.read(c.path, 0)
	require.NoError(t, os.Rename(c.path, c.path+".1"))
	write(t, c.path, refusal(3))
	c.read(c.path+".1", 0)
	assert.EqualValues(t, 2, c.counted())
	c.read(c.path, 0)
	assert.EqualValues(t, 3, c.counted())
	c.read(c.path+".1", 0)
	assert.EqualValues(t, 3, c.counted())
}

func TestPosition_TruncatedFileBeginsAgain(t *testing.T) {
	c := newPositioned(t)
	write(t, c.path, refusal(1), refusal(2))
	c.read(c.path, 0)
	require.NoError(t, os.Truncate(c.path, 0))
	write(t, c.path, refusal(3))
	c.read(c.path, 0)
	assert.EqualValues(t, 3, c.counted())

	require.NoError(t, os.Truncate(c.path, 0)) // and grown over where it was
	write(t, c.path, refusal(4), refusal(5), refusal(6))
	c.read(c.path, 0)
	assert.EqualValues(t, 6, c.counted())
	c.read(c.path, 0)
	assert.EqualValues(t, 6, c.counted())
}

func TestPosition_NewFileOfAnOldInodeIsNew(t *testing.T) {
	c := newPositioned(t)
	write(t, c.path, refusal(1), refusal(2))
	c.read(c.path, 0)
	info, err := os.Stat(c.path)
	require.NoError(t, err)
	old, ok := fileIDOf(info)
	require.True(t, ok)
	require.NoError(t, os.Remove(c.path))
	write(t, c.path, refusal(3), refusal(4))
	info, err = os.Stat(c.path)
	require.NoError(t, err)
	now, _ := fileIDOf(info)
	for _, s := range c.sources { // whether or not the file system uses it again
		for i := range s.positions {
			if s.positions[i].File == old {
				s.positions[i].File = now
			}
		}
	}
	c.read(c.path, 0)
	assert.EqualValues(t, 4, c.counted())
}

func TestPosition_FileThatCannotBeLookedAtIsReadAsItComes(t *testing.T) {
	c := newPositioned(t)
	write(t, c.path, refusal(1))
	ld := fromFile(t, c.path, 0, nil)
	require.NoError(t, os.Remove(c.path))
	require.NoError(t, c.ConsumeLogs(t.Context(), ld))
	require.NoError(t, c.ConsumeLogs(t.Context(), ld))
	assert.EqualValues(t, 2, c.counted())
}

func TestPosition_LinesOfContainersAreKnownByTheirRecord(t *testing.T) {
	for name, wrap := range map[string]func(string) string{
		"containerd": func(s string) string { return "2026-08-01T12:00:00.000000000Z stderr F " + s },
		"docker":     func(s string) string { return `{"log":"` + s + `\n","stream":"stderr"}` },
		"indented":   func(s string) string { return "   \t" + s },
	} {
		t.Run(name, func(t *testing.T) {
			c := newPositioned(t)
			line := "0.00.108.435 E srv    send_error: task id = 19, error: Prompt contains invalid tokens"
			write(t, c.path, wrap(line), wrap(line))
			unwrap := func(string) string { return line }
			if name == "docker" {
				unwrap = func(string) string { return line + "\n" }
			}
			for range 3 {
				require.NoError(t, c.ConsumeLogs(t.Context(), fromFile(t, c.path, 0, unwrap)))
			}
			for _, s := range c.sources {
				assert.Equal(t, 2, s.records)
				assert.EqualValues(t, 2, s.instances[""].statistics.Records["srv"]["error"])
			}
		})
	}
}

func TestPosition_ALineElsewhereIsAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.log")
	write(t, path, "something", refusal(1))
	var p positions
	f := files{}.get(path)
	assert.False(t, p.seen(f, path, 0, refusal(1)))
	assert.False(t, p[0].holds(path), "it is in the next line")
	assert.False(t, position{}.holds(path+".gone"))
}

func TestPosition_FilesAreBounded(t *testing.T) {
	var p positions
	for i := range 3 * maxPositions {
		p.seen(&file{ok: true, id: fileID{Inode: uint64(i)}}, "", 0, "x")
	}
	assert.Len(t, p, maxPositions)
	assert.EqualValues(t, 3*maxPositions-1, p[len(p)-1].File.Inode)
}
