// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package serverlog // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"

import (
	"strings"
	"time"
)

// Areas are constants, so that they outlive the line.
const areaSlot = "slot"

var areas = [...]string{areaSlot, "srv", "que", "res", "cmn", "spec"}

const colorReset = "\x1b[0m"

// trimEnd takes off what follows the message at the end of a line.
func trimEnd(s string) string {
	s = strings.TrimSuffix(s, "\r")
	return strings.TrimSuffix(s, colorReset)
}

// trimColors takes off the colors in front of s.
func trimColors(s string) string {
	for strings.HasPrefix(s, "\x1b[") {
		i := 2
		for i < len(s) && (isDigit(s[i]) || s[i] == ';') {
			i++
		}
		if i == len(s) || s[i] != 'm' {
			break
		}
		s = s[i+1:]
	}
	return s
}

// cutChild takes off "[37117] ", the port of a router's child. A port of four
// digits has a blank in front.
func cutChild(s string) (port int, rest string, ok bool) {
	s, ok = strings.CutPrefix(trimColors(s), "[")
	if !ok {
		return 0, "", false
	}
	port, s, ok = cutInt(s)
	if !ok || port == 0 || port > 65535 {
		return 0, "", false
	}
	rest, ok = strings.CutPrefix(s, "] ")
	return port, rest, ok
}

// cutPrefix takes off time, level, area and function, reads the first three of
// them and returns the message. ok is false for what is no line of the server's.
func (e *Event) cutPrefix(s string) (text string, ok bool) {
	s = trimColors(s)
	if clock, rest, ok := cutClock(s); ok {
		e.Clock, e.HasClock, s = clock, true, trimColors(rest)
	}
	severity, rest, leveled := cutLevel(s)
	if leveled {
		s = rest
	}
	if text, ok = e.cutArea(s); !ok {
		_, function := cutFunction(s)
		ok = leveled && (e.HasClock || function) || isBare(s)
	}
	if ok && leveled {
		e.Severity = severity
	}
	return text, ok
}

// cutArea takes off and reads area and function, and the function main of older
// builds. Other functions stay: ok is false, and text is s.
func (e *Event) cutArea(s string) (text string, ok bool) {
	for _, area := range areas {
		rest, found := strings.CutPrefix(s, area)
		if !found || !strings.HasPrefix(rest, " ") {
			continue
		}
		if text, ok = cutFunction(strings.TrimLeft(rest, " ")); ok {
			e.Area = area
			return text, true
		}
	}
	if text, ok = strings.CutPrefix(s, "main: "); ok {
		return text, true
	}
	return s, false
}

// cutClock takes off minutes.seconds.milliseconds.microseconds and the blank
// after them.
func cutClock(s string) (clock time.Duration, rest string, ok bool) {
	minutes, s, ok := cutInt(s)
	if !ok || len(s) < len(".00.000.000") || minutes > 1e8 {
		return 0, "", false
	}
	seconds, ok1 := exactInt(s[:3])
	millis, ok2 := exactInt(s[3:7])
	micros, ok3 := exactInt(s[7:11])
	rest, ok4 := strings.CutPrefix(trimColors(s[11:]), " ")
	clock = time.Duration(minutes)*time.Minute + time.Duration(seconds)*time.Second +
		time.Duration(millis)*time.Millisecond + time.Duration(micros)*time.Microsecond
	return clock, rest, ok1 && ok2 && ok3 && ok4 && seconds < 60
}

// exactInt reads a point and nothing but digits after it.
func exactInt(s string) (n int, ok bool) {
	for _, c := range []byte(s[1:]) {
		if !isDigit(c) {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, s[0] == '.'
}

// cutLevel takes off the letter of the level and the blank after it.
func cutLevel(s string) (severity Severity, rest string, ok bool) {
	if len(s) < 2 || s[1] != ' ' {
		return Unknown, "", false
	}
	switch s[0] {
	case 'D':
		severity = Debug
	case 'I':
		severity = Info
	case 'W':
		severity = Warning
	case 'E':
		severity = Error
	default:
		return Unknown, "", false
	}
	return severity, trimColors(s[2:]), true
}

// cutFunction takes off "function: ". The name is cut to 12 characters, and
// that of a lambda is "operator()".
func cutFunction(s string) (text string, ok bool) {
	name, text, ok := strings.Cut(s, ":")
	if !ok || name == "" || strings.Contains(name, " ") {
		return "", false
	}
	return strings.TrimPrefix(text, " "), text == "" || text[0] == ' '
}

// isBare reports whether a line is one of those with a Kind that older builds
// wrote without any prefix.
func isBare(s string) bool {
	if rest, ok := strings.CutPrefix(s, textBuild); ok {
		_, _, ok = cutInt(rest)
		return ok
	}
	return strings.HasPrefix(s, textBuildInfo) || strings.HasPrefix(s, textException+"{")
}
