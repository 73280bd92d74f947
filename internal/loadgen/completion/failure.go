// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"
	"time"
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
		x.fail(ConnectTimeout, cause)
	case errors.Is(cause, errFirstTokenTimeout):
		x.fail(FirstTokenTimeout, cause)
	case errors.Is(cause, errTimeout):
		x.fail(Timeout, cause)
	case begun:
		x.fail(StreamCut, fmt.Errorf("the answer was cut: %w: did the server end, or something on the way to it?", err))
	default:
		x.fail(below(err))
	}
}

// shown returns the endpoint's address without credentials.
func (c *Client) shown(e Endpoint) string {
	u := c.urls[e]
	u.User = nil
	return u.String()
}

// below classifies the error of a request that got no answer, and adds what to do
// about it.
func below(err error) (class string, told error) {
	var ue *url.Error
	if errors.As(err, &ue) { // its text would repeat method and address
		err = ue.Err
	}
	var (
		dns  *net.DNSError
		op   *net.OpError
		cert *tls.CertificateVerificationError
		rec  tls.RecordHeaderError
		host x509.HostnameError
		late net.Error
	)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return ConnectionRefused, fmt.Errorf("%w: is the server running there?", err)
	case errors.As(err, &dns):
		return NoSuchHost, fmt.Errorf("%w: is the URL right?", err)
	case errors.As(err, &cert), errors.As(err, &rec), errors.As(err, &host), strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		return TLS, fmt.Errorf("%w: is it https, and is the server's certificate trusted?", err)
	case errors.As(err, &late) && late.Timeout() && errors.As(err, &op) && op.Op == "dial":
		return ConnectTimeout, err
	case errors.As(err, &late) && late.Timeout():
		return Timeout, err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		strings.Contains(err.Error(), "server closed idle connection"):
		return ConnectionClosed, fmt.Errorf("%w: the server, or something on the way to it, ended", err)
	default:
		return Network, err
	}
}
