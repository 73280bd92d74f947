// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package serverlog // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"

import (
	"math"
	"strings"
	"time"
)

// maxDuration bounds what one line can add to a sum; no request takes longer.
const maxDuration = 100 * 24 * time.Hour

// maxSpeed in tokens per second; the server divides by times as short as it
// can measure.
const maxSpeed = 1e9

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// cutInt takes blanks and a number off s. A number at the very end does not
// count: the line may have been cut within it.
func cutInt(s string) (n int, rest string, ok bool) {
	n, rest, ok = cutLastInt(s)
	return n, rest, ok && rest != ""
}

// cutLastInt is cutInt where the format has nothing after the number.
func cutLastInt(s string) (n int, rest string, ok bool) {
	s = strings.TrimLeft(s, " ")
	i := 0
	for i < len(s) && i < 10 && isDigit(s[i]) {
		n = 10*n + int(s[i]-'0')
		i++
	}
	rest = s[i:]
	return n, rest, i > 0 && n <= math.MaxInt32 && (rest == "" || !isDigit(rest[0]))
}

// cutDecimal takes blanks and a number with a point off s, and the unit after it.
func cutDecimal(s, unit string) (f float64, rest string, ok bool) {
	s = strings.TrimLeft(s, " ")
	i, point := 0, -1
	scale := 1.0
	for ; i < len(s) && i < 24; i++ {
		switch {
		case isDigit(s[i]):
			f = 10*f + float64(s[i]-'0')
			if point >= 0 {
				scale *= 10
			}
			continue
		case s[i] == '.' && point < 0 && i > 0:
			point = i
			continue
		}
		break
	}
	if point < 0 || point == i-1 {
		return 0, "", false
	}
	rest, ok = strings.CutPrefix(s[i:], unit)
	return f / scale, rest, ok
}

// cutDuration takes a number of units off s.
func cutDuration(s, name string, unit time.Duration) (d time.Duration, rest string, ok bool) {
	f, rest, ok := cutDecimal(s, name)
	f *= float64(unit)
	if !ok || f > float64(maxDuration) {
		return 0, "", false
	}
	return time.Duration(math.Round(f)), rest, true
}

// field returns what follows "key = " in s. Quotes end the search: users' text
// comes in them.
func field(s, key string) (value string, ok bool) {
	if i := strings.IndexAny(s, `'"`); i >= 0 {
		s = s[:i]
	}
	for at := 0; ; at += len(key) {
		i := strings.Index(s[at:], key)
		if i < 0 {
			return "", false
		}
		at += i
		if value, ok = strings.CutPrefix(s[at+len(key):], " = "); ok && (at == 0 || s[at-1] == ' ') {
			return value, true
		}
	}
}

// intField returns the number after the first of keys that s has.
func intField(s string, keys ...string) (n int, ok bool) {
	for _, key := range keys {
		if value, found := field(s, key); found {
			n, _, ok = cutInt(value)
			return n, ok
		}
	}
	return 0, false
}
