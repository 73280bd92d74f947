// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"context"
	"net/http"
	"time"
)

// Options are how requests are sent.
type Options struct {
	// APIKey is sent as a bearer token, and to Messages as x-api-key too.
	APIKey string
	// Header is sent with each request.
	Header http.Header
	// Prepare, if not nil, may add headers to a request before it is sent, such
	// as the trace context of ctx.
	Prepare func(ctx context.Context, h http.Header)
	// ConnectTimeout, FirstTokenTimeout and Timeout are how long a request
	// may take from the time when it is sent until it has a connection, its
	// first token (of a stream) and its whole answer. 0 is without limit.
	ConnectTimeout, FirstTokenTimeout, Timeout time.Duration
	// MaxEvent is the most bytes of an event, or of an answer that is not
	// streamed, that are read; 0 is 16 MiB.
	MaxEvent int
}
