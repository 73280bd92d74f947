// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"bytes"
	"strconv"
)

// walker reads a JSON text once, from left to right, without copying. Most of an
// event is irrelevant and skipped. The walker checks the structure, but not numbers,
// literals and escapes.
type walker struct {
	text   []byte
	at     int
	broken bool // the text is not JSON, as far as it has been read
}

// object reads the next value, an object, and calls member with the name of each of
// its members, as written and without quotes. Values that member does not read are
// skipped. If the next value is not an object, it is skipped.
func (w *walker) object(member func(name []byte)) {
	if w.peek() != '{' {
		w.value()
		return
	}
	w.at++
	if w.peek() == '}' {
		w.at++
		return
	}
	for !w.broken {
		if w.peek() != '"' {
			w.broken = true
			return
		}
		name := w.value()
		if !w.take(':') {
			return
		}
		w.peek()
		before := w.at
		if member(name[1 : len(name)-1]); w.at == before {
			w.value()
		}
		if !w.more('}') {
			return
		}
	}
}

// array reads the next value, an array, and calls element before each of its
// elements. Elements that it does not read are skipped. If the next value is not an
// array, it is skipped.
func (w *walker) array(element func()) {
	if w.peek() != '[' {
		w.value()
		return
	}
	w.at++
	if w.peek() == ']' {
		w.at++
		return
	}
	for !w.broken {
		w.peek()
		before := w.at
		if element(); w.at == before {
			w.value()
		}
		if !w.more(']') {
			return
		}
	}
}

// more skips the comma or end after a member or an element, and reports whether
// another one follows.
func (w *walker) more(end byte) bool {
	switch w.peek() {
	case ',':
		w.at++
		return true
	case end:
		w.at++
		return false
	}
	w.broken = true
	return false
}

// ended reports whether the whole text was read without an error.
func (w *walker) ended() bool { return w.peek() == 0 && w.at == len(w.text) && !w.broken }

// value skips the next value and returns its JSON text.
func (w *walker) value() []byte {
	var (
		first = w.peek()
		begin = w.at
		depth = 0
	)
	if first != '"' && first != '{' && first != '[' {
		return w.scalar()
	}
	for w.at < len(w.text) {
		switch w.text[w.at] {
		case '"':
			if !w.skipString() {
				return none
			}
		case '{', '[':
			depth++
			w.at++
		case '}', ']':
			depth--
			w.at++
		default:
			w.at++
		}
		if depth == 0 {
			return w.text[begin:w.at]
		}
	}
	w.broken = true
	return none
}

// none is returned if there is no value, or if it has no end.
var none = []byte(`""`)

// scalar skips a number or a literal and returns its text.
func (w *walker) scalar() []byte {
	begin := w.at
	if n := bytes.IndexAny(w.text[begin:], ",:\"{}[] \t\r\n"); n >= 0 {
		w.at += n
	} else {
		w.at = len(w.text)
	}
	if w.at == begin {
		w.broken = true
		return none
	}
	return w.text[begin:w.at]
}

func (w *walker) skipString() bool {
	w.at++
	for {
		i := bytes.IndexByte(w.text[w.at:], '"')
		if i < 0 {
			w.at, w.broken = len(w.text), true
			return false
		}
		w.at += i + 1
		escapes := 0
		for j := w.at - 2; w.text[j] == '\\'; j-- {
			escapes++
		}
		if escapes%2 == 0 {
			return true
		}
	}
}

// peek skips white space and returns the next byte, or 0 at the end.
func (w *walker) peek() byte {
	for ; w.at < len(w.text); w.at++ {
		switch c := w.text[w.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

func (w *walker) take(c byte) bool {
	if w.peek() != c {
		w.broken = true
		return false
	}
	w.at++
	return true
}

// hasText reports whether the next value is a non-empty string.
func (w *walker) hasText() bool {
	v := w.value()
	return len(v) > 2 && v[0] == '"'
}

// str returns the next string, or "" for any other value. Escapes are not decoded,
// since names and identifiers have none.
func (w *walker) str() string {
	if v := w.value(); len(v) > 1 && v[0] == '"' {
		return string(v[1 : len(v)-1])
	}
	return ""
}

// number returns the next number, or the given one for any other value.
func (w *walker) number(otherwise float64) float64 {
	f, err := strconv.ParseFloat(string(w.value()), 64)
	if err != nil {
		return otherwise
	}
	return f
}
