// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package configcheck explains what is wrong with a section of a configuration,
// in the terms of the YAML file: the path of each setting that is unknown or of
// the wrong type, and what to write instead. The decoder's own errors name Go
// types and stop at the first unknown key. Beside an embedded configuration that
// unmarshals itself the decoder accepts unknown keys.
package configcheck // import "github.com/llamatelemetry/otelcol-llamacpp/internal/configcheck"

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/confmap"
)

// Wanter is implemented by types of settings that describe what they take.
type Wanter interface {
	// Want completes the sentence "want …".
	Want() string
}

// Section checks conf against the settings of the struct that cfg points to. It
// returns every setting that is unknown or of the wrong type, joined, and never
// repeats a value that may be a secret. It leaves cfg alone.
func Section(conf *confmap.Conf, cfg any) error {
	c := checker{root: reflect.TypeOf(cfg).Elem()}
	c.section(nil, conf, c.root)
	return errors.Join(c.errs...)
}

type checker struct {
	root reflect.Type
	errs []error
}

func (c *checker) report(path []string, format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("%s: %s", join(path), fmt.Sprintf(format, args...)))
}

func join(path []string) string { return strings.Join(path, confmap.KeyDelimiter) }

// section checks conf, which is to be decoded into a struct of type t.
func (c *checker) section(path []string, conf *confmap.Conf, t reflect.Type) {
	known, open := fieldsOf(t)
	values := conf.ToStringMap()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		at := append(slices.Clip(path), name)
		want, ok := known[name]
		switch value := values[name]; {
		case !ok && open:
		case !ok:
			c.report(at, "unknown setting%s", c.instead(path, name, known))
		case isListOfSections(want) && reflect.ValueOf(value).Kind() == reflect.Slice:
			c.list(at, want.Elem(), value)
		case isNamedSections(want) && value != nil:
			c.named(at, conf, want, value)
		case !isSection(want):
			c.value(at, conf, want, value)
		case value != nil:
			// With Sub, a value from the environment stays both text and number.
			sub, err := conf.Sub(name)
			if err != nil {
				c.report(at, "is %s: want %s", kind(value), wantedSection(want, value))
				continue
			}
			c.section(at, sub, want)
		}
	}
}

// list checks each section of a list of them.
func (c *checker) list(path []string, t reflect.Type, value any) {
	elements := reflect.ValueOf(value)
	for i := range elements.Len() {
		at := append(slices.Clip(path), strconv.Itoa(i))
		element := elements.Index(i).Interface()
		settings, ok := element.(map[string]any)
		if !ok {
			c.report(at, "is %s: want %s", kind(element), wantedSection(t, element))
			continue
		}
		c.section(at, confmap.NewFromStringMap(settings), t)
	}
}

// named checks sections that are called as the user likes.
func (c *checker) named(path []string, conf *confmap.Conf, t reflect.Type, value any) {
	all, err := conf.Sub(path[len(path)-1])
	if err != nil {
		c.report(path, "is %s: want a section with one section a name", kind(value))
		return
	}
	values := all.ToStringMap()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		at := append(slices.Clip(path), name)
		if values[name] == nil {
			continue
		}
		one, err := all.Sub(name)
		if err != nil {
			c.report(at, "is %s: want %s", kind(values[name]), wantedSection(t.Elem(), values[name]))
			continue
		}
		c.section(at, one, t.Elem())
	}
}

// value checks a single value by decoding it.
func (c *checker) value(path []string, conf *confmap.Conf, t reflect.Type, value any) {
	name := path[len(path)-1]
	if deref(t) == reflect.TypeFor[time.Duration]() {
		if wrong := withoutUnit(value); wrong != "" {
			c.report(path, "%s", wrong)
			return
		}
	}
	if isWhole(t) && hasFraction(value) {
		c.report(path, "%v: want a whole number", value) // the decoder would cut the fraction off
		return
	}
	single := reflect.New(reflect.StructOf([]reflect.StructField{{
		Name: "Value", Type: t, Tag: reflect.StructTag(fmt.Sprintf("%s:%q", confmap.MapstructureTag, name)),
	}}))
	err := conf.Unmarshal(single.Interface(), confmap.WithIgnoreUnused())
	if err == nil {
		return
	}
	if text, isText := value.(string); isText && deref(t).Kind() == reflect.String {
		// Of text only a type that reads it itself refuses any, and says why.
		if own, ok := reflect.New(deref(t)).Interface().(encoding.TextUnmarshaler); ok {
			err = own.UnmarshalText([]byte(text))
		}
		c.report(path, "%v", err)
		return
	}
	c.report(path, "is %s: want %s", kind(value), wanted(t, value))
}

// isWhole reports whether a type holds whole numbers only.
func isWhole(t reflect.Type) bool { v := reflect.Zero(deref(t)); return v.CanInt() || v.CanUint() }

func hasFraction(value any) bool {
	v := reflect.ValueOf(value)
	return v.IsValid() && v.CanFloat() && v.Float() != math.Trunc(v.Float())
}

// withoutUnit says what to write instead of a duration that is a bare number,
// which the decoder takes as nanoseconds; "" for any other value.
func withoutUnit(value any) string {
	switch v := reflect.ValueOf(value); {
	case !v.IsValid() || v.IsZero() || v.Type() == reflect.TypeFor[time.Duration]():
		return ""
	case v.CanInt():
		return fmt.Sprintf("%v: has it a unit? e.g. %ds", time.Duration(v.Int()), v.Int())
	case v.CanFloat():
		return fmt.Sprintf("%v: has it a unit? e.g. %vs", v, v)
	}
	return ""
}

// kind says what a value is in YAML, not which one, as it may be a secret.
func kind(value any) string {
	switch v := reflect.ValueOf(value); v.Kind() {
	case reflect.Invalid:
		return "empty"
	case reflect.Bool:
		return fmt.Sprint(value)
	case reflect.String:
		return "text"
	case reflect.Slice:
		return "a list"
	case reflect.Map:
		return "a section"
	default:
		return "a number"
	}
}

// wanted says what a setting of a type takes in place of the value.
func wanted(t reflect.Type, value any) string {
	if w, ok := reflect.Zero(t).Interface().(Wanter); ok {
		return w.Want()
	}
	t = deref(t)
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "a duration with its unit, e.g. 5s or 500ms"
	case reflect.TypeFor[configopaque.MapList]():
		return `names with text, e.g. {X-Team: "5"}`
	case reflect.TypeFor[component.ID]():
		return "the name of a component, e.g. bearertokenauth or file_storage/2"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		switch reflect.ValueOf(value).Kind() {
		case reflect.Slice, reflect.Map:
			return "text"
		}
		return "text, in quotes"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.String {
			return "a list of text"
		}
		return "a list"
	case reflect.Map:
		return "a section"
	default:
		if reflect.Zero(t).CanUint() {
			return "a whole number, 0 or more"
		}
		return "a number"
	}
}

func wantedSection(t reflect.Type, value any) string {
	known, _ := fieldsOf(t)
	names := slices.Sorted(maps.Keys(known))
	on, isBool := value.(bool)
	_, optional := contentOf(t)
	switch {
	case onlyEnabled(known):
		return fmt.Sprintf("{enabled: %t}", on)
	case optional && isBool:
		return "a section, {} for its defaults"
	case len(names) <= fewNames:
		return "a section with " + enumerate(names)
	}
	first, _ := fieldsOf(known[names[0]])
	if onlyEnabled(first) {
		return fmt.Sprintf("a section, e.g. {%s: {enabled: true}}", names[0])
	}
	return "a section with " + names[0] + " or others"
}

// onlyEnabled reports whether a section merely switches something on and off.
func onlyEnabled(known map[string]reflect.Type) bool {
	_, ok := known["enabled"]
	return ok && len(known) == 1
}
