// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package configcheck // import "github.com/llamatelemetry/otelcol-llamacpp/internal/configcheck"

import (
	"encoding"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/confmap"
)

// fewNames is the most settings of a section that are listed where one is
// unknown and none has a similar name.
const fewNames = 8

// fieldsOf returns the settings of a section by name. open reports whether it
// takes any others besides.
func fieldsOf(t reflect.Type) (known map[string]reflect.Type, open bool) {
	known = map[string]reflect.Type{}
	t, optional := contentOf(t)
	if optional {
		known["enabled"] = reflect.TypeFor[bool]()
	}
	if t.Kind() != reflect.Struct {
		return known, false
	}
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get(confmap.MapstructureTag), ",")
		switch {
		case !f.IsExported() || name == "-":
		case strings.Contains(options, "squash"):
			inner, innerOpen := fieldsOf(f.Type)
			maps.Copy(known, inner)
			open = open || innerOpen
		case strings.Contains(options, "remain"):
			open = true
		case name == "":
			known[strings.ToLower(f.Name)] = f.Type
		default:
			known[name] = f.Type
		}
	}
	return known, open
}

// contentOf returns the type inside pointers and a configoptional.Optional, and
// reports whether there is an Optional: its section has a setting enabled, which
// can switch it off.
func contentOf(t reflect.Type) (content reflect.Type, optional bool) {
	t = deref(t)
	if _, ok := t.MethodByName("HasValue"); !ok {
		return t, false
	}
	get, ok := reflect.PointerTo(t).MethodByName("Get")
	if !ok {
		return t, false
	}
	return deref(get.Type.Out(0)), true
}

func deref(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// isSection reports whether a setting has others below it.
func isSection(t reflect.Type) bool {
	t, _ = contentOf(t)
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// isListOfSections does not count a list that decodes itself.
func isListOfSections(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Name() == "" && isSection(t.Elem())
}

// isNamedSections reports whether a setting has sections whose names the user
// chooses.
func isNamedSections(t reflect.Type) bool {
	t = deref(t)
	return t.Kind() == reflect.Map && isSection(t.Elem())
}

// instead suggests what an unknown setting was meant to be. It tries, in this
// order: a setting of the same name in another section; one of this section with
// a similar name; one of this section that has the given name, or its last word,
// in its own; one of another section that has this word, unless this section is
// nested and has few settings. Where nothing fits it lists these.
func (c *checker) instead(path []string, name string, known map[string]reflect.Type) string {
	siblings := slices.Sorted(maps.Keys(known))
	last := name[strings.LastIndexAny(name, "._")+1:]
	hasLast := func(n string) bool { return len(last) > 3 && strings.Contains(n, last) }
	hasAll := func(n string) bool { return len(name) > 3 && strings.Contains(n, name) }
	for _, meant := range [][]string{
		closest(path, places(nil, c.root, func(n string) bool { return n == name })),
		nearest(name, siblings),
		matching(siblings, hasAll),
		matching(siblings, hasLast),
		c.elsewhere(path, len(known), hasLast),
	} {
		if 0 < len(meant) && len(meant) <= 4 {
			return ": did you mean " + enumerate(meant) + "?"
		}
	}
	if len(known) <= fewNames {
		return ": want " + enumerate(siblings)
	}
	return ": no setting has a similar name: see the README"
}

// elsewhere returns the settings of other sections whose names match, for a section
// with so many settings.
func (c *checker) elsewhere(path []string, settings int, is func(name string) bool) []string {
	if len(path) > 0 && settings <= fewNames {
		return nil
	}
	return closest(path, places(nil, c.root, is))
}

func matching(names []string, is func(name string) bool) (found []string) {
	for _, n := range names {
		if is(n) {
			found = append(found, n)
		}
	}
	return found
}

// places returns the paths of all settings below a section whose names match.
func places(path []string, t reflect.Type, is func(name string) bool) (found [][]string) {
	known, _ := fieldsOf(t)
	for _, name := range slices.Sorted(maps.Keys(known)) {
		at := append(slices.Clip(path), name)
		if is(name) {
			found = append(found, at)
		}
		if isSection(known[name]) {
			found = append(found, places(at, known[name], is)...)
		}
	}
	return found
}

// closest returns those of the places that have the longest beginning in common
// with a path, joined.
func closest(path []string, places [][]string) (joined []string) {
	most := 0
	for _, place := range places {
		n := shared(path, place)
		if n > most {
			most, joined = n, nil
		}
		if n == most {
			joined = append(joined, join(place))
		}
	}
	return joined
}

// shared returns how many names two paths have in common at their beginning.
func shared(a, b []string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

func enumerate(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// nearest returns the names that the fewest edits turn into the one given: at
// most three edits, and at most a third of its letters.
func nearest(name string, names []string) (near []string) {
	least := min(max(len(name)/3, 1), 3)
	for _, n := range names {
		switch d := distance(name, n); {
		case d < least:
			near, least = []string{n}, d
		case d == least:
			near = append(near, n)
		}
	}
	return near
}

// distance is Levenshtein's: how many bytes have to be added, dropped or
// replaced to make a of b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
