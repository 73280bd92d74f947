// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package pagetest looks at the live page in a real Chromium: what is drawn, what
// a person can do with it, and what it must not do.
package pagetest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/llamatelemetry/otelcol-llamacpp/test/pagetools"
)

const (
	// stepTimeout is for one command to the browser, on a machine that is busy.
	stepTimeout = 20 * time.Second
	stopTimeout = 10 * time.Second
	pollEvery   = 40 * time.Millisecond
)

// Browser is a Chromium with a profile of its own.
type Browser struct {
	ctx     context.Context
	cancel  context.CancelFunc
	profile string
}

// Launch starts a Chromium without a window. On a machine that is very busy it may
// crash while it starts.
func Launch(ctx context.Context) (*Browser, error) {
	path, err := pagetools.Find("chromium")
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		b, err := launch(ctx, path)
		if err == nil || attempt == 3 || ctx.Err() != nil {
			return b, err
		}
	}
}

func launch(ctx context.Context, path string) (*Browser, error) {
	profile, err := os.MkdirTemp("", "pagetest-chromium-")
	if err != nil {
		return nil, err
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(path), chromedp.Flag("headless", "new"), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.UserDataDir(profile), chromedp.Flag("lang", "en-US"),
		// Nothing but this machine is reached, whatever a page asks for.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"),
	)
	allocator, cancelAllocator := chromedp.NewExecAllocator(ctx, options...)
	b := &Browser{profile: profile}
	var cancel context.CancelFunc
	b.ctx, cancel = chromedp.NewContext(allocator)
	b.cancel = func() { cancel(); cancelAllocator() }
	if err := chromedp.Do(b.ctx); err != nil { // it lives as long as this context
		b.Close()
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return b, nil
}

// Close ends the browser with all its processes.
func (b *Browser) Close() {
	ctx, cancel := context.WithTimeout(b.ctx, stopTimeout)
	defer cancel()
	_ = chromedp.Cancel(ctx) // what does not end well is killed
	b.cancel()
	_ = os.RemoveAll(b.profile)
}

// left are the processes of the browser that have not ended.
func (b *Browser) left() []string {
	var pids []string
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		line, _ := os.ReadFile(name)
		if bytes.Contains(line, []byte(b.profile)) {
			pids = append(pids, filepath.Base(filepath.Dir(name)))
		}
	}
	return pids
}

// Look says how a tab shows a page.
type Look struct {
	Width, Height int64   // 1400 × 1000 by default
	Scale         float64 // pixels of the device for one of CSS; 1 by default
	Dark          bool
	Mobile        bool
}

// Tab is a page in a window and a session of its own, as a person has it who was
// never there before.
type Tab struct {
	ctx    context.Context
	cancel context.CancelFunc
	origin string // of the page; all else is foreign

	mu       sync.Mutex
	problems []string
	requests []string
}

// Open opens an address.
func (b *Browser) Open(url string, look Look) (*Tab, error) {
	tab := &Tab{origin: originOf(url)}
	tab.ctx, tab.cancel = chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(tab.note))
	if err := chromedp.Do(tab.ctx); err != nil {
		tab.cancel()
		return nil, fmt.Errorf("open a tab: %w", err)
	}
	err := tab.do(func(ctx context.Context) error {
		for _, enable := range []func() error{
			func() error { _, err := chromedp.Call(ctx, audits.Enable, cdp.Empty{}); return err },
			func() error { _, err := chromedp.Call(ctx, log.Enable, cdp.Empty{}); return err },
			func() error { _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); return err },
			func() error { return tab.Resize(look) },
		} {
			if err := enable(); err != nil {
				return err
			}
		}
		return chromedp.Do(ctx, chromedp.Navigate(url))
	})
	if err != nil {
		tab.Close()
		return nil, fmt.Errorf("open %s: %w", url, err)
	}
	return tab, nil
}

// Close closes the tab.
func (t *Tab) Close() { t.cancel() }

func originOf(url string) string {
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		return url
	}
	host, _, _ := strings.Cut(rest, "/")
	return scheme + "://" + host
}

// note keeps what a page must not do. It is called for each event of the tab.
func (t *Tab) note(event any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	problem := func(kind, format string, args ...any) {
		t.problems = append(t.problems, kind+": "+fmt.Sprintf(format, args...))
	}
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if x := e.ExceptionDetails.Exception; x != nil {
			text += " " + x.Description
		}
		problem("exception", "%s", text)
	case *runtime.EventConsoleAPICalled:
		switch string(e.Type) {
		case "error", "warning", "assert":
			var text []string
			for _, arg := range e.Args {
				text = append(text, string(arg.Value)+arg.Description)
			}
			problem("console", "%s: %s", e.Type, strings.Join(text, " "))
		}
	case *log.EventEntryAdded:
		if level := string(e.Entry.Level); level == "error" || level == "warning" {
			problem("log", "%s: %s: %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	case *audits.EventIssueAdded:
		if d := e.Issue.Details; d != nil && d.ContentSecurityPolicyIssueDetails != nil {
			problem("policy", "%s: %s", d.ContentSecurityPolicyIssueDetails.ViolatedDirective, d.ContentSecurityPolicyIssueDetails.BlockedURL)
		}
	case *network.EventRequestWillBeSent:
		url := e.Request.URL
		t.requests = append(t.requests, url)
		if !strings.HasPrefix(url, "data:") && !strings.HasPrefix(url, "blob:") && originOf(url) != t.origin {
			problem("request", "%s", url)
		}
	}
}

// Problems are what the page did and must not: violations of its policy, errors on
// the console, exceptions, and requests to others.
func (t *Tab) Problems() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.problems)
}

// Requests are the addresses that the page has asked for.
func (t *Tab) Requests() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.requests)
}

// do runs commands that have to end soon.
func (t *Tab) do(commands func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(t.ctx, stepTimeout)
	defer cancel()
	return commands(ctx)
}

// Eval evaluates an expression of JavaScript, waits for it if it is a promise, and
// reads its value as JSON into v, unless that is nil.
func (t *Tab) Eval(expression string, v any) error {
	var raw []byte
	err := t.do(func(ctx context.Context) error {
		var err error
		raw, err = chromedp.Run(ctx, chromedp.Evaluate[[]byte](expression, chromedp.EvalAwaitPromise))
		return err
	})
	if err != nil || v == nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", raw, err)
	}
	return nil
}

// Await waits until an expression is true.
func (t *Tab) Await(expression string, within time.Duration) error {
	var err error
	for end := time.Now().Add(within); ; time.Sleep(pollEvery) {
		var ok bool
		// While a page loads, what is asked for may not be there.
		if err = t.Eval("Boolean("+expression+")", &ok); err == nil && ok {
			return nil
		}
		if t.ctx.Err() != nil || time.Now().After(end) {
			return fmt.Errorf("not within %s: %s (%w)", within, expression, err)
		}
	}
}

// Resize changes the size of the window and what the system prefers.
func (t *Tab) Resize(look Look) error {
	look.Width = cmp.Or(look.Width, 1400)
	look.Height = cmp.Or(look.Height, 1000)
	look.Scale = cmp.Or(look.Scale, 1)
	scheme := "light"
	if look.Dark {
		scheme = "dark"
	}
	return t.do(func(ctx context.Context) error {
		_, err := chromedp.Call(ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
			Width: look.Width, Height: look.Height, DeviceScaleFactor: look.Scale, Mobile: look.Mobile,
		})
		if err != nil {
			return err
		}
		_, err = chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return err
	})
}

// Click clicks the middle of the first element that a selector finds.
func (t *Tab) Click(selector string) error {
	return t.do(func(ctx context.Context) error { return chromedp.Do(ctx, chromedp.Click(chromedp.CSS(selector))) })
}

// Type presses keys, wherever the focus is.
func (t *Tab) Type(keys string) error {
	return t.do(func(ctx context.Context) error { return chromedp.Do(ctx, chromedp.KeyEvent(keys)) })
}

// Mouse sends an event of the mouse: mouseMoved, mousePressed or mouseReleased.
// buttons are those that are held, 1 for the left one.
func (t *Tab) Mouse(event string, x, y float64, buttons int64) error {
	p := input.DispatchMouseEventParams{Type: input.DispatchMouseEventType(event), X: x, Y: y, Buttons: buttons}
	if event != "mouseMoved" {
		p.Button, p.ClickCount = input.MouseButtonLeft, 1
	}
	return t.do(func(ctx context.Context) error {
		_, err := chromedp.Call(ctx, input.DispatchMouseEvent, p)
		return err
	})
}

// Drag presses the left button at one place and lets it go at another.
func (t *Tab) Drag(fromX, fromY, toX, toY float64) error {
	for _, step := range []struct {
		event   string
		x, y    float64
		buttons int64
	}{
		{"mouseMoved", fromX, fromY, 0},
		{"mousePressed", fromX, fromY, 1},
		{"mouseMoved", (fromX + toX) / 2, (fromY + toY) / 2, 1},
		{"mouseMoved", toX, toY, 1},
		{"mouseReleased", toX, toY, 0},
	} {
		if err := t.Mouse(step.event, step.x, step.y, step.buttons); err != nil {
			return err
		}
	}
	return nil
}

// DownloadTo lets the page put files into a folder.
func (t *Tab) DownloadTo(folder string) error {
	own := chromedp.FromContext(t.ctx)
	return t.do(func(ctx context.Context) error {
		_, err := chromedp.CallBrowser(ctx, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
			Behavior: browser.SetDownloadBehaviorBehaviorAllow, DownloadPath: folder, BrowserContextID: own.BrowserContextID,
		})
		return err
	})
}

// Picture is what the window shows, as PNG.
func (t *Tab) Picture() ([]byte, error) {
	var png []byte
	err := t.do(func(ctx context.Context) error {
		r, err := chromedp.Call(ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{Format: page.CaptureScreenshotFormatPng})
		png = r.Data
		return err
	})
	return png, err
}
