// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package netfailure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newServer(t *testing.T, base string) *Server {
	t.Helper()
	u, err := url.Parse(base)
	require.NoError(t, err)
	return &Server{Base: *u, Name: "the server"}
}

func dial(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }

func read(err error) error { return &net.OpError{Op: "read", Net: "tcp", Err: err} }

func TestExplain_SaysWhatHappenedAndTheCure(t *testing.T) {
	const plain, secure = "http://u:secret@gpu-1:8080/llama", "https://gpu-1:8443"
	refused := os.NewSyscallError("connect", syscall.ECONNREFUSED)
	reset := os.NewSyscallError("read", syscall.ECONNRESET)
	certificate := func(err error) error { return &tls.CertificateVerificationError{Err: err} }
	for name, tt := range map[string]struct {
		base        string
		err         error
		class, cure string
	}{
		"nothing listens":               {plain, dial(refused), ConnectionRefused, "is the server running there?"},
		"closed, maybe for lack of TLS": {plain, io.EOF, ConnectionClosed, "is the server running there? If it has TLS (--ssl-cert-file), set endpoint to https://gpu-1:8080/llama"},
		"reset":                         {plain, read(reset), ConnectionClosed, "If it has TLS"},
		"closed with TLS":               {secure, io.EOF, ConnectionClosed, "is the server running there?"},
		"answer cut":                    {secure, fmt.Errorf("answer cut short: %w", io.ErrUnexpectedEOF), ConnectionClosed, "running there?"},
		"idle connection closed":        {secure, errors.New("http: server closed idle connection"), ConnectionClosed, "running there?"},
		"no such name":                  {plain, dial(&net.DNSError{Err: "no such host", IsNotFound: true}), NoSuchHost, "is the name in endpoint right?"},
		"no name server":                {plain, dial(&net.DNSError{Err: "server misbehaving", IsTemporary: true}), NoSuchHost, "can this machine resolve names?"},
		"name server does not answer":   {plain, dial(&net.DNSError{Err: "i/o timeout", IsTimeout: true}), NoSuchHost, "can this machine resolve names?"},
		"no name in the time allowed":   {plain, dial(&net.DNSError{Err: "i/o timeout", UnwrapErr: context.DeadlineExceeded, IsTimeout: true}), ConnectTimeout, "hangs or is overloaded"},
		"no connection in time":         {plain, dial(os.ErrDeadlineExceeded), ConnectTimeout, "the server hangs or is overloaded; raise timeout if it is only slow"},
		"no answer in time":             {plain, context.DeadlineExceeded, Timeout, "the server hangs or is overloaded; raise timeout if it is only slow"},
		"no handshake in time":          {secure, read(os.ErrDeadlineExceeded), Timeout, "if the server has no TLS, set endpoint to http://gpu-1:8443; else it hangs or is overloaded"},
		"proxy refuses":                 {plain, &net.OpError{Op: "proxyconnect", Err: dial(refused)}, Proxy, "mend proxy_url"},
		"speaks no TLS":                 {secure, http.ErrSchemeMismatch, TLS, "it speaks no TLS: set endpoint to http://gpu-1:8443"},
		"speaks something else":         {secure, tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, TLS, "it speaks no TLS: "},
		"speaks TLS":                    {plain, errors.New(`malformed HTTP response "\x15\x03\x01\x00\x02\x02\x16"`), TLS, "it speaks TLS: set endpoint to https://gpu-1:8080/llama"},
		"unknown authority":             {secure, certificate(x509.UnknownAuthorityError{}), TLS, "set tls::ca_file to "},
		"other name":                    {secure, certificate(x509.HostnameError{Certificate: &x509.Certificate{}, Host: "gpu-1"}), TLS, "tls::server_name_override"},
		"expired":                       {secure, certificate(x509.CertificateInvalidError{Reason: x509.Expired}), TLS, "renew the server's certificate"},
		"invalid for another reason":    {secure, certificate(x509.CertificateInvalidError{Reason: x509.IncompatibleUsage}), TLS, "give the server a valid certificate"},
		"client's certificate wanted":   {secure, &net.OpError{Op: "remote error", Err: tls.AlertError(116)}, TLS, "set tls::cert_file and tls::key_file"},
		"too old a version":             {secure, &net.OpError{Op: "remote error", Err: tls.AlertError(70)}, TLS, "see tls::min_version"},
		"something else":                {plain, errors.New("enough"), Network, "is the server running there?"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newServer(t, tt.base).Explain(&url.Error{Op: "Post", URL: tt.base, Err: tt.err})
			assert.Equal(t, tt.class, f.Class)
			assert.Contains(t, f.Cure, tt.cure)
			assert.Equal(t, f.Err.Error()+": "+f.Cure, f.Error())
			assert.NotContains(t, f.Error(), "secret")
			assert.NotContains(t, f.Error(), "Post", "the caller tells method and address")
		})
	}
}

// A server that has answered before has died.
func TestExplain_ServerThatAnsweredSpeaksTheSchemeOfItsURL(t *testing.T) {
	s := newServer(t, "http://gpu-1:8080")
	s.Answered()
	assert.Equal(t, "is the server running there?", s.Explain(io.EOF).Cure)
	s = newServer(t, "https://gpu-1:8443")
	s.Answered()
	assert.Equal(t, "the server hangs or is overloaded; raise timeout if it is only slow", s.Explain(context.DeadlineExceeded).Cure)
}

func TestWantsTLS(t *testing.T) {
	s := newServer(t, "http://gpu-1:8080")
	for body, want := range map[string]bool{
		"Client sent an HTTP request to an HTTPS server.\n":                               true,
		"<html><center>The plain HTTP request was sent to HTTPS port</center></html>":     true,
		`{"error":{"code":400,"message":"an HTTP request without TLS","type":"invalid"}}`: false,
		"": false,
	} {
		cure, ok := s.WantsTLS(http.StatusBadRequest, []byte(body))
		assert.Equal(t, want, ok, body)
		if want {
			assert.Equal(t, "it speaks TLS: set endpoint to https://gpu-1:8080", cure)
		}
	}
	_, ok := s.WantsTLS(http.StatusNotFound, []byte("Client sent an HTTP request to an HTTPS server.\n"))
	assert.False(t, ok)
}
