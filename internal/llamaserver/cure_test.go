// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tlsServer has a certificate of localhost, 127.0.0.1 and what change makes of it.
func tlsServer(t *testing.T, change func(*x509.Certificate, *tls.Config)) (server *httptest.Server, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	server = httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{}
	change(c, server.TLS)
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	require.NoError(t, err)
	server.TLS.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	server.StartTLS()
	t.Cleanup(server.Close)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots = x509.NewCertPool()
	roots.AddCert(parsed)
	return server, roots
}

// accepting answers each connection with what it is given, and closes it; nil
// answers nothing and keeps it open.
func accepting(t *testing.T, answer []byte) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if answer == nil {
				t.Cleanup(func() { _ = conn.Close() })
				continue
			}
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = conn.Write(answer)
			_ = conn.Close()
		}
	}()
	return l.Addr().String()
}

func health(t *testing.T, base string, transport *http.Transport) error {
	t.Helper()
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return newClient(t, base, transport).Health(ctx)
}

func TestClient_TLSFailuresNameTheirCure(t *testing.T) {
	server, roots := tlsServer(t, func(*x509.Certificate, *tls.Config) {})
	named, namedRoots := tlsServer(t, func(c *x509.Certificate, _ *tls.Config) { c.DNSNames, c.IPAddresses = []string{"gpu-1"}, nil })
	expired, expiredRoots := tlsServer(t, func(c *x509.Certificate, _ *tls.Config) { c.NotAfter = time.Now().Add(-time.Hour) })
	asking, askingRoots := tlsServer(t, func(_ *x509.Certificate, c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert })
	newer, newerRoots := tlsServer(t, func(_ *x509.Certificate, c *tls.Config) { c.MinVersion = tls.VersionTLS13 })
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()

	for _, tt := range []struct {
		name, base string
		tls        *tls.Config
		reason     Reason
		want       []string
	}{
		{"unknown authority", server.URL, &tls.Config{}, NoAnswer, []string{"unknown authority", "set tls::ca_file to "}},
		{"wrong name", named.URL, &tls.Config{RootCAs: namedRoots}, NoAnswer, []string{"127.0.0.1", "tls::server_name_override"}},
		{"expired", expired.URL, &tls.Config{RootCAs: expiredRoots}, NoAnswer, []string{"expired", "renew the server's certificate, or set this machine's clock"}},
		{"client's certificate wanted", asking.URL, &tls.Config{RootCAs: askingRoots}, NoAnswer, []string{"set tls::cert_file and tls::key_file"}},
		{"too old a version", newer.URL, &tls.Config{RootCAs: newerRoots, MaxVersion: tls.VersionTLS12}, NoAnswer, []string{"protocol version", "see tls::min_version"}},
		{"https to a port without", strings.Replace(plain.URL, "http:", "https:", 1), &tls.Config{}, NoAnswer, []string{"it speaks no TLS: set endpoint to " + plain.URL}},
		{"http to a port with", strings.Replace(server.URL, "https:", "http:", 1), &tls.Config{RootCAs: roots}, Unexpected, []string{"400: it speaks TLS: set endpoint to " + server.URL}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := health(t, tt.base, &http.Transport{TLSClientConfig: tt.tls})
			assert.Equal(t, tt.reason, ReasonOf(err))
			for _, want := range tt.want {
				require.ErrorContains(t, err, want)
			}
			assert.NotContains(t, err.Error(), "running there?")
		})
	}
}

// llama-server itself closes the connection where it expects TLS, and waits for
// more where it does not and gets it (b11669).
func TestClient_PortsOfLlamaServerWithAndWithoutTLS(t *testing.T) {
	closing := accepting(t, []byte{})
	err := health(t, "http://u:secret@"+closing+"/llama", &http.Transport{})
	require.ErrorContains(t, err, "EOF: is llama-server running there? If it has TLS (--ssl-cert-file), set endpoint to https://"+closing+"/llama")
	assert.Equal(t, NoAnswer, ReasonOf(err))
	assert.NotContains(t, err.Error(), "secret")

	waiting := accepting(t, nil)
	transport := &http.Transport{TLSHandshakeTimeout: 100 * time.Millisecond}
	err = health(t, "https://"+waiting, transport)
	require.ErrorContains(t, err, "no answer in time: if the server has no TLS, set endpoint to http://"+waiting)
	assert.Equal(t, Late, ReasonOf(err))

	alert := accepting(t, []byte("\x15\x03\x01\x00\x02\x02\x16"))
	err = health(t, "http://"+alert, &http.Transport{})
	require.ErrorContains(t, err, "it speaks TLS: set endpoint to https://"+alert)
}

// One that has answered before has died.
func TestClient_ServerThatAnsweredBeforeIsNotTakenForTLS(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" {
			_, _ = io.WriteString(w, `{"status":"ok"}`)
			return
		}
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	c := newClient(t, server.URL, transport)
	require.NoError(t, c.Health(t.Context()))
	_, err := c.Metrics(t.Context(), "")
	require.ErrorContains(t, err, "EOF: is llama-server running there?")
	assert.NotContains(t, err.Error(), "TLS")
}

func TestClient_NamesAndProxiesThatFail(t *testing.T) {
	err := health(t, "http://no-such-host.invalid:8080", &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		// Not every machine that runs this asks a name server that answers.
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "no-such-host.invalid", IsNotFound: true}}
	}})
	require.ErrorContains(t, err, "no such host: is the name in endpoint right?")
	assert.Equal(t, NoAnswer, ReasonOf(err))

	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	proxy := &url.URL{Scheme: "http", Host: closed.Addr().String()}
	err = health(t, "http://gpu-1:8080", &http.Transport{Proxy: http.ProxyURL(proxy)})
	require.ErrorContains(t, err, "proxyconnect")
	require.ErrorContains(t, err, "mend proxy_url")
	assert.Equal(t, NoAnswer, ReasonOf(err))
}
