// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaserver // import "github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// cure says what to do about a call that brought no answer.
func (c *Client) cure(err error) string {
	var (
		record    tls.RecordHeaderError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		dns       *net.DNSError
	)
	switch {
	case hasOp(err, "proxyconnect"):
		return "mend proxy_url, or HTTP_PROXY, HTTPS_PROXY and NO_PROXY in the collector's environment"
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		return "it speaks no TLS: set endpoint to " + c.otherScheme()
	case errors.As(err, &authority):
		return "set tls::ca_file to the certificate of the authority that signed the server's, or to the server's own if that is self-signed"
	case errors.As(err, &host):
		return "set endpoint to a name that is in the server's certificate, or tls::server_name_override to it"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "renew the server's certificate, or set this machine's clock"
	case hasOp(err, "remote error") && strings.Contains(err.Error(), "certificate"):
		return "set tls::cert_file and tls::key_file to a certificate that the server accepts"
	case hasOp(err, "remote error"):
		return "the server refuses TLS as it is asked for: see tls::min_version, tls::max_version and tls::cipher_suites"
	case errors.As(err, &dns) && dns.IsNotFound:
		return "is the name in endpoint right?"
	case errors.As(err, &dns):
		return "can this machine resolve names?"
	case strings.Contains(err.Error(), `malformed HTTP response "\x15\x03`): // an alert
		return "it speaks TLS: set endpoint to " + c.otherScheme()
	// llama-server cuts the connection like this on a port with --ssl-cert-file.
	// It does so too when it dies, but then it has answered before.
	case c.base.Scheme == "http" && !c.answered.Load() && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		return "is llama-server running there? If it has TLS (--ssl-cert-file), set endpoint to " + c.otherScheme()
	}
	return "is llama-server running there?"
}

// cureLate says what to do where no answer came in time.
func (c *Client) cureLate() string {
	// A llama-server without TLS waits for the rest of what it takes for HTTP.
	if c.base.Scheme == "https" && !c.answered.Load() {
		return "if the server has no TLS, set endpoint to " + c.otherScheme() + "; else it hangs or is overloaded"
	}
	return "the server hangs or is overloaded; raise timeout if it is only slow"
}

// hasOp reports whether an error, or one that it wraps, is of this operation of
// package net.
func hasOp(err error, op string) bool {
	var e *net.OpError
	for errors.As(err, &e) {
		if e.Op == op {
			return true
		}
		err = e.Err
	}
	return false
}

// wantsTLS reports whether a body is what Go's server, nginx and others answer
// to a request without TLS where they expect it.
func wantsTLS(status int, body []byte) bool {
	body = bytes.ToLower(body)
	return status == http.StatusBadRequest && bytes.Contains(body, []byte("http request")) && bytes.Contains(body, []byte("https"))
}

// otherScheme is the base URL with https in place of http, or the other way.
func (c *Client) otherScheme() string {
	u := c.base
	u.User = nil
	u.Scheme = map[string]string{"http": "https", "https": "http"}[u.Scheme]
	return u.String()
}
