// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package recent

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

var nopLog = zap.NewNop()

func TestOpen_GoesOnAfterARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "folder")
	s, err := Open(dir, DefaultLimits(), nopLog)
	require.NoError(t, err)
	s.Add(client(1, ""))
	s.Add(request("a:1", 2, time.Second))
	want := s.Last("", 9)
	for name, end := range map[string]func() error{"ended": s.Close, "killed": func() error { return nil }} {
		require.NoError(t, end(), name)
		next, err := Open(dir, DefaultLimits(), nopLog)
		require.NoError(t, err, name)
		assert.Equal(t, want, next.Last("", 9), name)
		assert.Zero(t, next.Add(request("a:1", 2, time.Second)), "%s: the same span", name)
		s = next
	}
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "twice")
	assert.Equal(t, 1, s.Add(request("a:1", 3, time.Minute)), "in memory")
	info, err := os.Stat(filepath.Join(dir, fileName))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "nobody else's business")
}

func TestOpen_SkipsDamagedLinesAndSaysSoOnce(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, DefaultLimits(), nopLog)
	require.NoError(t, err)
	s.Add(request("a:1", 1, 0))
	s.Add(request("a:1", 2, time.Second))
	require.NoError(t, s.Close())
	path := filepath.Join(dir, fileName)
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	damaged := "nonsense\n" + strings.Repeat("x", 3*maxLine) + "\n" + `{"id": "zz"}` + "\n\x00\x00\n\n" + string(good) +
		strings.Replace(string(good), `"start":`, `"start":-`, 1) + string(good[:50]) // cut by a kill
	require.NoError(t, os.WriteFile(path, []byte(damaged), 0o600))

	core, logs := observer.New(zap.DebugLevel)
	s, err = Open(dir, DefaultLimits(), zap.New(core))
	require.NoError(t, err)
	assert.Equal(t, []int{2, 1}, numbers(s.Last("", 9)))
	require.Equal(t, 1, logs.Len())
	assert.EqualValues(t, 6, logs.All()[0].ContextMap()["lines"])
	s.Add(request("a:1", 3, time.Minute))

	core, logs = observer.New(zap.DebugLevel)
	s, err = Open(dir, DefaultLimits(), zap.New(core))
	require.NoError(t, err)
	assert.Equal(t, []int{3, 2, 1}, numbers(s.Last("", 9)), "nothing was written behind half a line")
	assert.Zero(t, logs.Len())
	require.NoError(t, s.Close())
}

func TestAdd_KeepsTheFileShort(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Limits{PerServer: 2, Servers: 1, Bytes: 1 << 20}, nopLog)
	require.NoError(t, err)
	longest := 0
	for n := range 1500 {
		td := request("a:1", 1, time.Duration(n)*time.Second)
		span := spanOf(td)
		id := span.SpanID()
		id[2], id[3] = byte(n), byte(n>>8)
		span.SetSpanID(id)
		s.Add(td)
		longest = max(longest, s.file.lines)
	}
	assert.Less(t, longest, 600)
	assert.Equal(t, 1, strings.Count(read1(t, dir), s.Last("", 1)[0].ID))
	require.NoError(t, s.Close())
	assert.Equal(t, 2, strings.Count(read1(t, dir), "\n"))
	assert.NoFileExists(t, filepath.Join(dir, fileName+".new"))
}

func read1(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, fileName))
	require.NoError(t, err)
	return string(b)
}

func TestOpen_SaysWhatIsWrongWithTheDirectory(t *testing.T) {
	taken := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(taken, nil, 0o600))
	_, err := Open(taken, DefaultLimits(), nopLog)
	require.ErrorContains(t, err, "choose a directory that the collector may write to")

	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, fileName+".new"), 0o700))
	_, err = Open(dir, DefaultLimits(), nopLog)
	require.ErrorContains(t, err, "choose a directory")

	dir = t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, fileName), 0o700))
	_, err = Open(dir, DefaultLimits(), nopLog)
	require.ErrorContains(t, err, "read")
}

func TestAdd_LivesWithADiskThatFails(t *testing.T) {
	dir := t.TempDir()
	core, logs := observer.New(zap.DebugLevel)
	s, err := Open(dir, DefaultLimits(), zap.New(core))
	require.NoError(t, err)
	s.Add(request("a:1", 1, 0))
	require.NoError(t, os.Mkdir(filepath.Join(dir, fileName+".new"), 0o700)) // no new file can be made
	require.NoError(t, s.file.f.Close())                                     // nor can the old one be written
	s.Add(request("a:1", 2, time.Second))
	s.Add(request("a:1", 3, 2*time.Second))
	assert.Len(t, s.Last("", 9), 3)
	require.Equal(t, 1, logs.Len(), "once")
	assert.Contains(t, logs.All()[0].Message, "not on disk")

	require.NoError(t, os.Remove(filepath.Join(dir, fileName+".new")))
	s.file.failed = time.Now().Add(-2 * retryAfter)
	s.Add(request("a:1", 4, 3*time.Second))
	assert.Equal(t, 4, strings.Count(read1(t, dir), "\n"), "what could not be written before as well")
	require.NoError(t, s.Close())
}

// Whatever is in the file, the store stays within its limits, and writes what it
// reads again.
func FuzzLoad(f *testing.F) {
	s := New(DefaultLimits())
	s.Add(client(1, ""))
	s.Add(request("a:1", 2, time.Second))
	var good bytes.Buffer
	for _, r := range s.all() {
		require.NoError(f, json.NewEncoder(&good).Encode(r))
	}
	f.Add(good.Bytes())
	f.Add(good.Bytes()[:good.Len()-40])
	f.Add([]byte("\n\n{}\nnull\n[1]\n\xff\n"))
	f.Add([]byte(`{"id":"0172000000000000","server":"a","outcome":"failed","start":1,"end":2,"duration":1e308}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		limits := Limits{PerServer: 3, Servers: 2, Bytes: 4000}
		s := New(limits)
		skipped, err := s.load(bytes.NewReader(data))
		require.NoError(t, err)
		all := s.all()
		assert.LessOrEqual(t, len(all), 6)
		assert.LessOrEqual(t, skipped+len(all), bytes.Count(data, []byte("\n"))+1)
		var again bytes.Buffer
		for i := len(all) - 1; i >= 0; i-- {
			require.NoError(t, json.NewEncoder(&again).Encode(all[i]))
		}
		other := New(limits)
		skipped, err = other.load(&again)
		require.NoError(t, err)
		assert.Zero(t, skipped)
		assert.Equal(t, all, other.all())
		require.NoError(t, WriteCSV(&again, all))
	})
}
