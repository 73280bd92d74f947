// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/netfailure"
)

// fail records that the request has failed.
func (x *exchange) fail(class string, err error) {
	r := &x.result
	r.Outcome, r.ErrorType = Failed, class
	r.Err = fmt.Errorf("POST %s: %w", x.client.shown(x.request.Endpoint), err)
	if r.End.IsZero() {
		r.End = time.Now()
	}
}

// failBelow records an error of the connection, or the reason why the client ended
// it: the caller or a time-out. If the answer has begun, a failing connection cuts
// it.
func (x *exchange) failBelow(err error, begun bool) {
	x.result.End = time.Now()
	cause := context.Cause(x.ctx)
	switch {
	case x.caller.Err() != nil:
		x.result.Outcome, x.result.Err = Cancelled, context.Cause(x.caller)
	case errors.Is(cause, errConnectTimeout):
		x.fail(netfailure.ConnectTimeout, cause)
	case errors.Is(cause, errFirstTokenTimeout):
		x.fail(FirstTokenTimeout, cause)
	case errors.Is(cause, errTimeout):
		x.fail(netfailure.Timeout, cause)
	case begun:
		x.fail(StreamCut, fmt.Errorf("the answer was cut: %w: did the server end, or something on the way to it?", err))
	default:
		f := x.client.server.Explain(err)
		x.fail(f.Class, f)
	}
}

// shown returns the endpoint's address without credentials.
func (c *Client) shown(e Endpoint) string {
	u := c.urls[e]
	u.User = nil
	return u.String()
}
