// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package serverlog // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// object is a line of --log-jsonl.
type object struct {
	severity Severity
	clock    time.Duration
	message  string
}

// readObject reads {"type":"log","time":...,"level":...,"msg":...}. ok is
// false for objects of other types, which are no lines of a log, and for what
// is no whole object.
func readObject(s string) (o object, ok bool) {
	var isLog, timed, said bool
	for s = strings.TrimLeft(s[1:], " "); ; {
		key, _, rest, ok := cutString(s)
		if !ok {
			return object{}, false
		}
		rest, ok = strings.CutPrefix(strings.TrimLeft(rest, " "), ":")
		if !ok {
			return object{}, false
		}
		rest = strings.TrimLeft(rest, " ")
		if key == "time" {
			o.clock, rest, timed = cutMicros(rest)
			ok = timed
		} else {
			var value string
			var escaped bool
			value, escaped, rest, ok = cutString(rest)
			switch key {
			case "type":
				isLog = value == "log"
				ok = ok && isLog
			case "level":
				o.severity = severityOf(value)
			case "msg":
				if escaped {
					value = unescape(value)
				}
				o.message, said = value, ok
			}
		}
		if !ok {
			return object{}, false
		}
		rest = strings.TrimLeft(rest, " ")
		if rest == "}" {
			return o, isLog && timed && said
		}
		if s, ok = strings.CutPrefix(rest, ","); !ok {
			return object{}, false
		}
		s = strings.TrimLeft(s, " ")
	}
}

func severityOf(level string) Severity {
	switch level {
	case "debug":
		return Debug
	case "info":
		return Info
	case "warn":
		return Warning
	case "error":
		return Error
	default:
		return Unknown
	}
}

// cutMicros takes off a whole number of microseconds, of 15 digits at most:
// thirty years.
func cutMicros(s string) (d time.Duration, rest string, ok bool) {
	i := 0
	for i < len(s) && i < 15 && isDigit(s[i]) {
		d = 10*d + time.Duration(s[i]-'0')
		i++
	}
	rest = s[i:]
	return d * time.Microsecond, rest, i > 0 && rest != "" && !isDigit(rest[0])
}

// cutString takes off a string in quotes. A newline at its end is left out.
// escaped reports whether the rest has to be unescaped.
func cutString(s string) (value string, escaped bool, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		return "", false, "", false
	}
	s = s[1:]
	for end := 0; ; end++ {
		i := strings.IndexByte(s[end:], '"')
		if i < 0 {
			return "", false, "", false
		}
		end += i
		if value = s[:end]; !quoted(value) {
			break
		}
	}
	rest = s[len(value)+1:]
	if i := strings.IndexByte(value, '\\'); i >= 0 {
		if i == len(value)-2 && value[i+1] == 'n' {
			value = value[:i]
		} else {
			escaped = true
		}
	}
	return value, escaped, rest, true
}

// quoted reports whether what follows s is escaped by a backslash.
func quoted(s string) bool {
	i := len(s)
	for i > 0 && s[i-1] == '\\' {
		i--
	}
	return (len(s)-i)%2 == 1
}

// unescape allocates, once for each message. It is needed where a router passes
// on its children's lines, which are JSON in JSON.
func unescape(s string) string {
	out := make([]byte, 0, len(s))
	for {
		i := strings.IndexByte(s, '\\')
		if i < 0 || i == len(s)-1 {
			return string(append(out, s...))
		}
		out, s = append(out, s[:i]...), s[i+1:]
		switch c := s[0]; c {
		case 'b', 'f':
			out, s = append(out, ' '), s[1:]
		case 'n':
			out, s = append(out, '\n'), s[1:]
		case 'r':
			out, s = append(out, '\r'), s[1:]
		case 't':
			out, s = append(out, '\t'), s[1:]
		case 'u':
			r, rest := cutRune(s[1:])
			if low, after := cutEscapedRune(rest); utf16.IsSurrogate(r) && low != utf8.RuneError {
				r, rest = utf16.DecodeRune(r, low), after
			}
			out, s = utf8.AppendRune(out, r), rest
		default: // a quote, a slash or a backslash
			out, s = append(out, c), s[1:]
		}
	}
}

func cutEscapedRune(s string) (r rune, rest string) {
	if s, ok := strings.CutPrefix(s, `\u`); ok {
		return cutRune(s)
	}
	return utf8.RuneError, s
}

func cutRune(s string) (r rune, rest string) {
	if len(s) < 4 {
		return utf8.RuneError, ""
	}
	n, err := strconv.ParseUint(s[:4], 16, 16)
	if err != nil {
		return utf8.RuneError, s[4:]
	}
	return rune(n), s[4:]
}
