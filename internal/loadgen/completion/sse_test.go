// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// reads gives one string for each read, and then its error, or io.EOF.
type reads struct {
	parts []string
	err   error
}

func (r *reads) Read(p []byte) (int, error) {
	if len(r.parts) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		return 0, io.EOF
	}
	n := copy(p, r.parts[0])
	if r.parts[0] = r.parts[0][n:]; r.parts[0] == "" {
		r.parts = r.parts[1:]
	}
	return n, nil
}

// readAll returns the events as name=data, with a * where one was not whole.
func readAll(r *eventReader) (events []string, err error) {
	for {
		e, err := r.next()
		if err != nil {
			return events, err
		}
		s := string(e.name) + "=" + string(e.data)
		if !e.whole {
			s += "*"
		}
		events = append(events, s)
	}
}

func newReader(in io.Reader) *eventReader {
	return &eventReader{in: in, now: time.Now, limit: 1 << 20}
}

func TestEventReader(t *testing.T) {
	for name, c := range map[string]struct {
		stream string
		want   []string
	}{
		"one line":                    {"data: a\n\n", []string{"=a"}},
		"without a space":             {"data:a\n\ndata:\n\n", []string{"=a", "="}},
		"only one space is dropped":   {"data:  a\n\n", []string{"= a"}},
		"CRLF":                        {"event: x\r\ndata: a\r\n\r\ndata: b\r\n\r\n", []string{"x=a", "=b"}},
		"named":                       {"event: x\ndata: a\n\ndata: b\n\n", []string{"x=a", "=b"}},
		"name after data":             {"data: a\nevent: x\n\n", []string{"x=a"}},
		"name without data":           {"event: x\n\ndata: a\n\n", []string{"=a"}},
		"several lines":               {"data: a\ndata\ndata: b\nevent: x\n\n", []string{"x=a\n\nb"}},
		"pings":                       {":\n\n: ping\n\ndata: a\n:\n\n:\n\n", []string{"=a"}},
		"other fields":                {"id: 1\nretry: 10\nnonsense\ndata: a\n\n", []string{"=a"}},
		"more empty lines":            {"\n\ndata: a\n\n\n\ndata: b\n\n", []string{"=a", "=b"}},
		"an old llama-server's error": {"error: {\"code\":500}\n\n", []string{`error={"code":500}`}},
		"end before the empty line":   {"data: a\n\ndata: [DONE]\n", []string{"=a", "=[DONE]*"}},
		"end within a line":           {"data: a\n\nevent: x\ndata: {\"cho", []string{"=a", `x={"cho*`}},
		"end after a name":            {"data: a\n\nevent: x", []string{"=a"}},
		"nothing":                     {"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			for how, in := range map[string]io.Reader{
				"at once": strings.NewReader(c.stream), "byte by byte": iotest.OneByteReader(strings.NewReader(c.stream)),
				"error with data": iotest.DataErrReader(strings.NewReader(c.stream)),
			} {
				got, err := readAll(newReader(in))
				assert.Equal(t, c.want, got, how)
				assert.ErrorIs(t, err, io.EOF, how)
			}
		})
	}
}

func TestEventReader_EventArrivesWithTheReadThatEndsIt(t *testing.T) {
	var reading int
	begin := time.Now()
	r := newReader(&reads{parts: []string{"data: a\n\ndata: b\n\nda", "ta: c", "\n", "\ndata: d\n\n"}})
	r.now = func() time.Time { reading++; return begin.Add(time.Duration(reading) * time.Second) }
	var got []time.Duration
	for {
		e, err := r.next()
		if err != nil {
			break
		}
		got = append(got, e.arrived.Sub(begin))
	}
	assert.Equal(t, []time.Duration{time.Second, time.Second, 4 * time.Second, 4 * time.Second}, got)
}

func TestEventReader_MegabytesUpToTheLimit(t *testing.T) {
	long := strings.Repeat("x", 1<<20-100)
	got, err := readAll(newReader(strings.NewReader("data: a\n\ndata: " + long + "\n\ndata: b\n\n")))
	require.ErrorIs(t, err, io.EOF)
	assert.Equal(t, []string{"=a", "=" + long, "=b"}, got)

	r := newReader(strings.NewReader("data: a\n\ndata: " + long + long + "\n\n"))
	got, err = readAll(r)
	assert.ErrorIs(t, err, errTooLarge)
	assert.Equal(t, []string{"=a"}, got)
	assert.LessOrEqual(t, len(r.buf), 1<<20, "nothing beyond the limit is kept")
}

func TestEventReader_PingsWithoutEndTakeNoMemory(t *testing.T) {
	r := newReader(strings.NewReader(strings.Repeat(": ping\n", 1<<16) + "data: a\n\n"))
	got, err := readAll(r)
	require.ErrorIs(t, err, io.EOF)
	assert.Equal(t, []string{"=a"}, got)
	assert.Len(t, r.buf, firstBuffer)
}

func TestEventReader_CutConnectionIsNotTheEnd(t *testing.T) {
	for _, stream := range []string{"data: a\n\n", "data: a\n\ndata: b", "data: a\n\ndata: b\n"} {
		got, err := readAll(newReader(&reads{parts: []string{stream}, err: io.ErrUnexpectedEOF}))
		assert.Equal(t, []string{"=a"}, got)
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
}

// However a stream is cut into reads, its events are the same.
func FuzzEventReader(f *testing.F) {
	f.Add([]byte("event: x\r\ndata: a\r\ndata: b\r\n\r\n:\n\ndata: c\n\nerror: d\n\ndata: e"), uint8(3))
	f.Add([]byte("data: "+strings.Repeat("x", 9000)+"\n\ndata: y\n\n"), uint8(200))
	f.Fuzz(func(t *testing.T, stream []byte, step uint8) {
		limited := func(in io.Reader) *eventReader {
			return &eventReader{in: in, now: time.Now, limit: 10_000}
		}
		whole, wholeErr := readAll(limited(bytes.NewReader(stream)))
		var parts []string
		for rest := string(stream); rest != ""; {
			n := min(len(rest), int(step)+1)
			parts, rest = append(parts, rest[:n]), rest[n:]
		}
		cut, cutErr := readAll(limited(&reads{parts: parts}))
		if errors.Is(wholeErr, errTooLarge) || errors.Is(cutErr, errTooLarge) {
			return // how much of it is in the buffer depends on the reads
		}
		assert.Equal(t, whole, cut)
		assert.ErrorIs(t, wholeErr, io.EOF)
		assert.ErrorIs(t, cutErr, io.EOF)
	})
}
