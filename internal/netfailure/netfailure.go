// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package netfailure says why an HTTP request got no answer, and what to do about
// it.
package netfailure // import "github.com/llamatelemetry/otelcol-llamacpp/internal/netfailure"

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
)

// Classes of failures, which can be values of the attribute error.type.
const (
	ConnectTimeout    = "connect_timeout"    // no connection in time
	Timeout           = "timeout"            // no answer in time
	ConnectionRefused = "connection_refused" // nothing listens at the address
	ConnectionClosed  = "connection_closed"  // closed or reset before the answer began
	NoSuchHost        = "no_such_host"       // the name has no address, or cannot be looked up
	TLS               = "tls"                // no secure connection
	Proxy             = "proxy"              // no connection through the proxy
	Network           = "network"            // anything else below HTTP
)

// Failure is why a request got no answer.
type Failure struct {
	Class string
	Err   error
	// Cure is what to do about it. Settings have the names of confighttp, unless
	// Server.Rename changes them.
	Cure string
}

// Error returns the error and its cure.
func (f *Failure) Error() string { return f.Err.Error() + ": " + f.Cure }

func (f *Failure) Unwrap() error { return f.Err }

// Server is a server that requests are sent to. It is safe for concurrent use.
type Server struct {
	// Base is the server's URL. Credentials in it are not shown.
	Base url.URL
	// Name is what users call the server.
	Name string
	// Rename, if not nil, returns a cure with the names that settings have where the
	// server is configured, if these are not confighttp's.
	Rename func(cure string) string

	answered atomic.Bool
}

// Answered records that something at Base has answered in the scheme of Base.
func (s *Server) Answered() { s.answered.Store(true) }

var errLate = errors.New("no answer in time")

// Explain returns the failure behind an error of http.Client.Do or of reading an
// answer.
func (s *Server) Explain(err error) *Failure {
	f := s.explain(err)
	f.Cure = s.renamed(f.Cure)
	return f
}

func (s *Server) renamed(cure string) string {
	if s.Rename == nil {
		return cure
	}
	return s.Rename(cure)
}

func (s *Server) explain(err error) *Failure {
	var ue *url.Error
	if errors.As(err, &ue) { // its text would repeat method and address
		err = ue.Err
	}
	var (
		dns  *net.DNSError
		late net.Error
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return s.late(err)
	case hasOp(err, "proxyconnect"):
		return &Failure{Proxy, err, "mend proxy_url, or HTTP_PROXY, HTTPS_PROXY and NO_PROXY in the environment"}
	case errors.As(err, &dns) && dns.IsNotFound:
		return &Failure{NoSuchHost, err, "is the name in endpoint right?"}
	case errors.As(err, &dns):
		return &Failure{NoSuchHost, err, "can this machine resolve names?"}
	case errors.As(err, &late) && late.Timeout():
		return s.late(err)
	}
	if cure := s.cureTLS(err); cure != "" {
		return &Failure{TLS, err, cure}
	}
	running := "is " + s.Name + " running there?"
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return &Failure{ConnectionRefused, err, running}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		strings.Contains(err.Error(), "server closed idle connection"):
		// llama-server cuts the connection like this on a port with
		// --ssl-cert-file. It does so too when it dies, but then it has answered
		// before.
		if s.Base.Scheme == "http" && !s.answered.Load() {
			running += " If it has TLS (--ssl-cert-file), set endpoint to " + s.otherScheme()
		}
		return &Failure{ConnectionClosed, err, running}
	}
	return &Failure{Network, err, running}
}

// late explains that time ran out. The error's own text would tell no more.
func (s *Server) late(err error) *Failure {
	f := &Failure{Timeout, errLate, "the server hangs or is overloaded; raise timeout if it is only slow"}
	if hasOp(err, "dial") {
		f.Class = ConnectTimeout
	}
	// A llama-server without TLS waits for the rest of what it takes for HTTP.
	if s.Base.Scheme == "https" && !s.answered.Load() {
		f.Cure = "if the server has no TLS, set endpoint to " + s.otherScheme() + "; else it hangs or is overloaded"
	}
	return f
}

// cureTLS returns the cure of an error that concerns TLS, or "".
func (s *Server) cureTLS(err error) string {
	var (
		record    tls.RecordHeaderError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		untrusted *tls.CertificateVerificationError
	)
	switch {
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		return "it speaks no TLS: set endpoint to " + s.otherScheme()
	case errors.As(err, &authority):
		return "set tls::ca_file to the certificate of the authority that signed the server's, or to the server's own if that is self-signed"
	case errors.As(err, &host):
		return "set endpoint to a name that is in the server's certificate, or tls::server_name_override to it"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "renew the server's certificate, or set this machine's clock"
	case errors.As(err, &untrusted):
		return "give the server a valid certificate"
	case hasOp(err, "remote error") && strings.Contains(err.Error(), "certificate"):
		return "set tls::cert_file and tls::key_file to a certificate that the server accepts"
	case hasOp(err, "remote error"):
		return "the server refuses TLS as it is asked for: see tls::min_version, tls::max_version and tls::cipher_suites"
	case strings.Contains(err.Error(), `malformed HTTP response "\x15\x03`): // an alert
		return s.speaksTLS()
	}
	return ""
}

// WantsTLS returns the cure of an answer with which Go's server, nginx and others
// refuse a request without TLS, and false for any other answer.
func (s *Server) WantsTLS(status int, body []byte) (cure string, ok bool) {
	body = bytes.ToLower(body)
	if status != http.StatusBadRequest || !bytes.Contains(body, []byte("http request")) || !bytes.Contains(body, []byte("https")) {
		return "", false
	}
	return s.renamed(s.speaksTLS()), true
}

func (s *Server) speaksTLS() string { return "it speaks TLS: set endpoint to " + s.otherScheme() }

// otherScheme returns the base URL with https in place of http, or the other way.
func (s *Server) otherScheme() string {
	u := s.Base
	u.User = nil
	u.Scheme = map[string]string{"http": "https", "https": "http"}[u.Scheme]
	return u.String()
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
