// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package pagetest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patience is for what takes a second or two on a machine that is not busy.
const patience = 20 * time.Second

// chromium is the one browser of all tests.
var chromium = sync.OnceValues(func() (*Browser, error) { return Launch(context.Background()) })

func TestMain(m *testing.M) {
	code := m.Run()
	if used.Load() {
		b, err := chromium()
		if err == nil {
			b.Close()
			for end := time.Now().Add(stopTimeout); len(b.left()) > 0 && time.Now().Before(end); {
				time.Sleep(pollEvery)
			}
			if left := b.left(); len(left) > 0 {
				fmt.Fprintf(os.Stderr, "Chromium has not ended: processes %v\n", left)
				code = max(code, 1)
			}
		}
	}
	os.Exit(code)
}

var used atomic.Bool

func browserOf(t *testing.T) *Browser {
	t.Helper()
	b, err := chromium()
	require.NoError(t, err)
	used.Store(true)
	return b
}

// view is a tab under test, which must not do what no page may do.
type view struct {
	*Tab
	t       *testing.T
	allowed []*regexp.Regexp
}

func open(t *testing.T, url string, look Look) *view {
	t.Helper()
	tab, err := browserOf(t).Open(url, look)
	require.NoError(t, err)
	v := &view{Tab: tab, t: t}
	v.allow("willReadFrequently") // the tests read pixels
	t.Cleanup(func() {
		v.wellBehaved()
		tab.Close()
	})
	return v
}

// allow takes a problem for what has to happen, such as a connection that is
// refused while the collector is away.
func (v *view) allow(pattern string) { v.allowed = append(v.allowed, regexp.MustCompile(pattern)) }

// wellBehaved checks what must hold for every page at every time.
func (v *view) wellBehaved() {
	v.t.Helper()
problems:
	for _, p := range v.Problems() {
		for _, a := range v.allowed {
			if a.MatchString(p) {
				continue problems
			}
		}
		assert.Fail(v.t, "the page did what it must not", p)
	}
}

// await waits until an expression is true in the page.
func (v *view) await(expression string, args ...any) {
	v.t.Helper()
	require.NoError(v.t, v.Await(script(expression, args...), patience))
}

// eval evaluates an expression.
func (v *view) eval(result any, expression string, args ...any) {
	v.t.Helper()
	require.NoError(v.t, v.Eval(script(expression, args...), result), expression)
}

// text is what an element says.
func (v *view) text(selector string) string {
	v.t.Helper()
	var s string
	v.eval(&s, `document.querySelector($)?.innerText ?? ""`, selector)
	return s
}

// click clicks an element, once it is there.
func (v *view) click(selector string) {
	v.t.Helper()
	v.await(`document.querySelector($)`, selector)
	require.NoError(v.t, v.Click(selector), selector)
}

// clickText clicks the button or link that says a text.
func (v *view) clickText(selector, text string) {
	v.t.Helper()
	find := script(`[...document.querySelectorAll($)].find((e) => e.innerText.trim() === $)`, selector, text)
	v.await(find)
	var place struct{ X, Y float64 }
	v.eval(&place, `(() => { const e = `+find+`; e.scrollIntoView({ block: "nearest", behavior: "instant" }); const b = e.getBoundingClientRect();
		return { X: b.x + b.width / 2, Y: b.y + b.height / 2 }; })()`)
	require.NoError(v.t, v.Drag(place.X, place.Y, place.X, place.Y))
}

func (v *view) press(keys string) {
	v.t.Helper()
	require.NoError(v.t, v.Type(keys))
}

// keep saves a picture among the artefacts.
func (v *view) keep(name string) {
	v.t.Helper()
	png, err := v.Picture()
	require.NoError(v.t, err, name)
	folder := cmp.Or(os.Getenv("SCREENSHOTS"), "screenshots")
	require.NoError(v.t, os.MkdirAll(folder, 0o755))
	require.NoError(v.t, os.WriteFile(filepath.Join(folder, name+".png"), png, 0o644))
}

// script puts values as JSON in the places of $ in an expression.
func script(expression string, args ...any) string {
	out := ""
	for _, c := range expression {
		if c == '$' && len(args) > 0 {
			text, err := json.Marshal(args[0])
			if err != nil {
				panic(err)
			}
			out += string(text)
			args = args[1:]
			continue
		}
		out += string(c)
	}
	return out
}
