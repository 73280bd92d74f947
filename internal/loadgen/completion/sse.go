// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"bytes"
	"errors"
	"io"
	"time"
)

// event is a server-sent event. Its bytes are valid until the next one is read.
type event struct {
	// name is the event's type, empty if it has none. Older builds of llama-server
	// send an error in a field named "error", which is read as the data of an event
	// of that name.
	name, data []byte
	// arrived is when the last of its bytes arrived.
	arrived time.Time
	// whole is false if the stream ended before the empty line that ends an event.
	whole bool
}

var errTooLarge = errors.New("event of more bytes than allowed")

// eventReader reads server-sent events as the HTML standard defines them,
// except that a lone carriage return does not end a line: no server sends that.
//
// An incomplete event stays in place in the buffer, so that nothing is copied in the
// common case of one line of data and an empty line.
type eventReader struct {
	in    io.Reader
	now   func() time.Time
	limit int

	buf     []byte
	from    int // where the event being read begins
	to      int // end of what has been read
	arrived time.Time
	err     error  // the error of the last read
	joined  []byte // the data of an event with several lines of data
}

// firstBuffer is enough for many events of one token each. It is small, since 10,000
// open streams have as many buffers.
const firstBuffer = 4 << 10

// next returns the next event that has data, and io.EOF at the end of the stream. If
// the stream ends within an event, that event is returned first and is not whole.
func (r *eventReader) next() (event, error) {
	type span struct{ from, to int } // relative to r.from, which may move
	var (
		at         = 0 // how far the event has been parsed
		name, data span
		lines      int
	)
	finish := func(whole bool) event {
		b := r.buf[r.from:r.to]
		e := event{name: b[name.from:name.to], data: b[data.from:data.to], arrived: r.arrived, whole: whole}
		if lines > 1 {
			e.data = r.joined
		}
		r.from += at
		return e
	}
	for {
		line, ended := r.line(at)
		if !ended && (!errors.Is(r.err, io.EOF) || lines == 0 && len(line) == 0) {
			return event{}, r.err
		}
		begin := at
		at += len(line)
		if ended {
			at++
			line = bytes.TrimSuffix(line, []byte{'\r'})
		}
		if len(line) == 0 {
			if lines > 0 {
				return finish(ended), nil
			}
			r.from, at, name = r.from+at, 0, span{}
			continue
		}
		field, value, _ := bytes.Cut(line, []byte{':'})
		v := span{begin + len(line) - len(value), begin + len(line)}
		if len(value) > 0 && value[0] == ' ' {
			v.from++
		}
		switch string(field) {
		case "event":
			name = v
		case "error":
			name = span{begin, begin + len(field)}
			fallthrough
		case "data":
			switch lines++; lines {
			case 1:
				data = v
			case 2:
				b := r.buf[r.from:]
				r.joined = append(r.joined[:0], b[data.from:data.to]...)
				fallthrough
			default:
				r.joined = append(r.joined, '\n')
				r.joined = append(r.joined, r.buf[r.from+v.from:r.from+v.to]...)
			}
		default:
			// A comment, whose field is empty, or an unknown field. Outside an event it
			// is dropped from the buffer at once, since pings may go on for ever.
			if lines == 0 && name == (span{}) {
				r.from, at = r.from+at, 0
			}
		}
		if !ended {
			if lines > 0 {
				return finish(false), nil
			}
			return event{}, r.err
		}
	}
}

// line returns the line that begins at the offset from r.from, without its newline,
// and reports whether it had one. If not, r.err is the reason.
func (r *eventReader) line(at int) ([]byte, bool) {
	searched := at
	for {
		if i := bytes.IndexByte(r.buf[r.from+searched:r.to], '\n'); i >= 0 {
			return r.buf[r.from+at : r.from+searched+i], true
		}
		searched = r.to - r.from
		if r.err != nil || !r.fill() {
			return r.buf[r.from+at : r.to], false
		}
	}
}

// fill reads once, and reports whether any bytes were read.
func (r *eventReader) fill() bool {
	if r.to == len(r.buf) {
		switch held := r.to - r.from; {
		case held >= r.limit:
			r.err = errTooLarge
			return false
		case r.from > 0 && held <= len(r.buf)/2:
			copy(r.buf, r.buf[r.from:r.to])
			r.from, r.to = 0, held
		default:
			grown := make([]byte, min(max(2*len(r.buf), firstBuffer), max(r.limit, firstBuffer)))
			copy(grown, r.buf[r.from:r.to])
			r.buf, r.from, r.to = grown, 0, held
		}
	}
	for range 100 { // as bufio does
		n, err := r.in.Read(r.buf[r.to:])
		if n > 0 {
			r.arrived = r.now()
			r.to += n
		}
		r.err = err
		if n > 0 || err != nil {
			return n > 0
		}
	}
	r.err = io.ErrNoProgress
	return false
}

// rest reads the rest of the input, for an answer that is not a stream of events.
func (r *eventReader) rest() ([]byte, error) {
	for r.err == nil {
		r.fill()
	}
	if !errors.Is(r.err, io.EOF) {
		return nil, r.err
	}
	return r.buf[r.from:r.to], nil
}
