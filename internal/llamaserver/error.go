// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaserver // import "github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/netfailure"
)

// Reason says why a call brought no answer that can be used.
type Reason int

const (
	NoAnswer     Reason = iota + 1 // refused, reset, cut short, no such host
	Late                           // the time allowed ran out
	Loading                        // 503: the model is being loaded
	Unauthorized                   // 401, 403: key missing or wrong
	Disabled                       // 501: the endpoint is switched off
	NotLoaded                      // router: the model is not loaded, or just starting or stopping
	NeedsModel                     // 400: a router, to which the request must name a model
	Malformed                      // 200, but not what a llama-server answers
	TooLarge                       // more bytes than allowed
	Unexpected                     // any other status
)

// Error is a call that failed. Its text holds the URL, without credentials,
// the cause, and what to do about it.
type Error struct {
	URL    string
	Status int // 0 when there was no answer
	Reason Reason
	Err    error
}

func (e *Error) Error() string {
	if e.Status == 0 || e.Status == http.StatusOK {
		return fmt.Sprintf("GET %s: %v", e.URL, e.Err)
	}
	return fmt.Sprintf("GET %s: %d: %v", e.URL, e.Status, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// ReasonOf returns the reason of an error of this package, else 0.
func ReasonOf(err error) Reason {
	if err == nil { // as at nearly every call; what follows allocates
		return 0
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return 0
}

func (c *Client) noAnswer(shown string, err error) error {
	f := c.server.Explain(err)
	switch {
	case f.Class == netfailure.Timeout || f.Class == netfailure.ConnectTimeout:
		return &Error{URL: shown, Reason: Late, Err: f}
	case errors.Is(err, context.Canceled):
		return &Error{URL: shown, Reason: NoAnswer, Err: f.Err}
	}
	return &Error{URL: shown, Reason: NoAnswer, Err: f}
}

// refused makes an error of an answer with a status other than 200.
func (c *Client) refused(shown string, resp *http.Response, body []byte) error {
	e := &Error{URL: shown, Status: resp.StatusCode, Reason: Unexpected}
	message := errorMessage(body)
	cure, wantsTLS := c.server.WantsTLS(resp.StatusCode, body)
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		e.Reason = Unauthorized
		e.Err = errors.New("set api_key to the key that llama-server was started with (--api-key)")
	case resp.StatusCode == http.StatusNotImplemented && strings.Contains(shown, "/metrics"):
		e.Reason = Disabled
		e.Err = errors.New("start llama-server with --metrics")
	case resp.StatusCode == http.StatusNotImplemented && strings.Contains(shown, "/slots"):
		e.Reason = Disabled
		e.Err = errors.New("start llama-server with --slots, without --no-slots, or leave the slots scraper out")
	case resp.StatusCode == http.StatusServiceUnavailable && message == "Loading model":
		e.Reason = Loading
		e.Err = errors.New("the model is being loaded")
	case resp.StatusCode == http.StatusBadRequest && message == "model is not loaded",
		// What a router says while the model's process is starting or stopping.
		resp.StatusCode == http.StatusInternalServerError && strings.HasPrefix(string(body), "proxy error"):
		e.Reason = NotLoaded
		e.Err = errors.New("the model is not loaded")
	case resp.StatusCode == http.StatusBadRequest && strings.Contains(message, "model name is missing"):
		e.Reason = NeedsModel
		e.Err = errors.New("the server is a router")
	case wantsTLS:
		e.Err = errors.New(cure)
	case resp.StatusCode == http.StatusNotFound:
		e.Err = errors.New("no such page: is endpoint llama-server's address, with its prefix (--api-prefix) if it has one, and without /v1?")
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		e.Err = fmt.Errorf("redirects to %s: set endpoint to the address of llama-server itself", location(resp))
	case message != "":
		e.Err = errors.New(message)
	default:
		e.Err = errors.New("not an answer of llama-server: is endpoint its address?")
	}
	return e
}

// errorMessage returns what llama-server says is wrong, "" where the answer is
// not one of llama-server. The message is the server's own text, never a prompt;
// it is cut all the same, as it goes to the log.
func errorMessage(body []byte) string {
	if !gjson.ValidBytes(body) {
		return ""
	}
	m := gjson.GetBytes(body, "error.message").String()
	if len(m) > 200 {
		m = strings.ToValidUTF8(m[:200], "") // the cut may be within a character
	}
	return m
}

func location(resp *http.Response) string {
	u, err := resp.Location()
	if err != nil {
		return "nowhere"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
