// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// secured returns the settings of a receiver that speaks TLS, and a pool with its
// certificate.
func secured(t testing.TB) (receiver []string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	file := func(name, kind string, b []byte) string {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600))
		return path
	}
	pool = x509.NewCertPool()
	parsed, err := x509.ParseCertificate(cert)
	require.NoError(t, err)
	pool.AddCert(parsed)
	return []string{"tls:", "  cert_file: " + file("cert.pem", "CERTIFICATE", cert), "  key_file: " + file("key.pem", "PRIVATE KEY", private)}, pool
}

// A client that speaks HTTP/2 gets the same as any other, and leaves as quickly.
func TestHTTP2_OverTLS(t *testing.T) {
	t.Parallel()
	left := make(chan time.Time, 1)
	event := "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":null,\"index\":0}],\"model\":\"tiny\"}\n\n"
	u := listen(t, func(p *peer, q *message) bool {
		if !q.readBodyOf(p) {
			return false
		}
		if !strings.Contains(q.line, chatPath) {
			p.say("HTTP/1.1 200 OK\r\nX-Many: 1\r\nX-Many: 2\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n%s0\r\nX-Sum: 42\r\n\r\n", chunks(q.body, 1000))
			return true
		}
		p.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(event), event)
		gone(p)
		left <- time.Now()
		return false
	})
	tlsSettings, pool := secured(t)
	p := start(t, u.URL(), settings{receiver: tlsSettings})
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool}, DisableCompression: true}}
	t.Cleanup(client.CloseIdleConnections)
	url := "https://" + p.address

	r, err := client.Post(url+"/a//b%2Fc?d;e", "application/octet-stream", bytes.NewReader(pattern(300_000)))
	require.NoError(t, err)
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	r.Body.Close()
	assert.Equal(t, 2, r.ProtoMajor)
	assert.True(t, bytes.Equal(pattern(300_000), body))
	assert.Equal(t, []string{"1", "2"}, r.Header["X-Many"])
	assert.Equal(t, "42", r.Trailer.Get("X-Sum"))
	q := u.forget()
	require.Len(t, q, 1)
	assert.Equal(t, "POST /a//b%2Fc?d;e HTTP/1.1", q[0].line)
	assert.Equal(t, []string{p.address}, q[0].values("Host"))

	// The first event comes while the answer has no end, and a client that leaves one of
	// the connection's streams leaves the server.
	r, err = client.Post(url+chatPath, "application/json", strings.NewReader(chatBody))
	require.NoError(t, err)
	first := make([]byte, len(event))
	_, err = io.ReadFull(r.Body, first)
	require.NoError(t, err)
	assert.Equal(t, event, string(first))
	began := time.Now()
	r.Body.Close()
	select {
	case at := <-left:
		assert.Less(t, at.Sub(began), 2*time.Second)
	case <-time.After(patience):
		t.Fatal("the upstream does not learn of it")
	}
	p.awaitOutcomes(map[string]int{"cancelled": 1})
}

// Requests whose fields say in HTTP/2 what would begin another request in HTTP/1: the
// classes H2.CL, H2.TE and header injection of PortSwigger's research.
func TestSmuggling_FromHTTP2(t *testing.T) {
	t.Parallel()
	u := serve(t, func(*message) string { return answered })
	tlsSettings, pool := secured(t)
	p := start(t, u.URL(), settings{receiver: tlsSettings})
	type field = [2]string
	head := func(more ...field) []field {
		return append([]field{{":method", "POST"}, {":scheme", "https"}, {":authority", "a"}, {":path", "/a"}}, more...)
	}
	for i, c := range []struct {
		name   string
		fields []field
		body   string
		want   []string // of the upstream; nothing means refused
	}{
		{"plain", head(), "hello", []string{"POST /a hello"}},
		{"H2.CL: right length", head(field{"content-length", "5"}), "hello", []string{"POST /a hello"}},
		{"H2.CL: length 0", head(field{"content-length", "0"}), smuggled, nil},
		{"H2.CL: shorter", head(field{"content-length", "3"}), smuggled, nil},
		{"H2.CL: longer", head(field{"content-length", "300"}), smuggled, nil},
		{"H2.CL: two lengths", head(field{"content-length", "5"}, field{"content-length", "0"}), "hello", []string{"POST /a hello"}},
		{"H2.CL: no number", head(field{"content-length", "5\r\nx: y"}), "hello", nil},
		{"H2.TE", head(field{"transfer-encoding", "chunked"}), "0\r\n\r\n" + smuggled, nil},
		{"H2.TE: connection", head(field{"connection", "transfer-encoding"}), "hello", nil},
		{"CRLF in a value", head(field{"x", "y\r\ntransfer-encoding: chunked"}), "0\r\n\r\n" + smuggled, nil},
		{"LF in a value", head(field{"x", "y\ntransfer-encoding: chunked"}), "0\r\n\r\n" + smuggled, nil},
		{"NUL in a value", head(field{"x", "y\x00z"}), "hello", nil},
		{"CRLF in a name", head(field{"x: y\r\ntransfer-encoding", "chunked"}), "0\r\n\r\n" + smuggled, nil},
		{"colon in a name", head(field{"transfer-encoding: chunked\r\nx", "y"}), "0\r\n\r\n" + smuggled, nil},
		{"upper case in a name", head(field{"Transfer-Encoding", "chunked"}), "0\r\n\r\n" + smuggled, nil},
		{"request in the path", []field{{":method", "POST"}, {":scheme", "https"}, {":authority", "a"}, {":path", "/a HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled"}}, "hello", nil},
		{"space in the path", []field{{":method", "POST"}, {":scheme", "https"}, {":authority", "a"}, {":path", "/a HTTP/1.1"}}, "hello", nil},
		{"space in the query", []field{{":method", "POST"}, {":scheme", "https"}, {":authority", "a"}, {":path", "/a?b HTTP/1.1"}}, "hello", nil},
		{"request in the method", []field{{":method", "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\nPOST"}, {":scheme", "https"}, {":authority", "a"}, {":path", "/a"}}, "hello", nil},
		{"request in the authority", []field{{":method", "POST"}, {":scheme", "https"}, {":authority", "a\r\n\r\n" + smuggled}, {":path", "/a"}}, "hello", nil},
		{"two paths", head(field{":path", "/smuggled"}), "hello", nil},
		{"another host", head(field{"host", "b"}), "hello", []string{"POST /a hello"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			u.forget()
			conn, err := tls.Dial("tcp", p.address, &tls.Config{RootCAs: pool, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
			// A path of its own: what comes late is not taken for the next one's.
			own := fmt.Sprintf("/case%d", i)
			for j, f := range c.fields {
				if f[0] == ":path" {
					c.fields[j][1] = strings.Replace(f[1], "/a", own, 1)
				}
			}
			status := speak(t, conn, c.fields, c.body)
			conn.Close()
			u.settle(t)
			var seen []string
			for _, q := range u.forget() {
				assert.Equal(t, []string{"a"}, q.values("Host"))
				assert.NotContains(t, q.line, "smuggled")
				if q.whole && strings.Contains(q.line, own+" ") {
					seen = append(seen, strings.Replace(strings.TrimSuffix(q.line, "HTTP/1.1"), own, "/a", 1)+string(q.body))
				}
			}
			if strings.HasSuffix(c.name, "length 0") && len(seen) > 0 {
				// It may have gone on its way, without a body, before the first byte too many came.
				c.want = []string{"POST /a "}
			}
			assert.Equal(t, c.want, seen, "answered with %q", status)
			if c.want == nil {
				assert.True(t, status == "" || status >= "400", "answered with %q", status)
			}
		})
	}
}

// speak sends a request in HTTP/2 with fields as they are, and returns the status of the
// answer, or nothing if the stream or the connection is ended instead.
func speak(t testing.TB, conn net.Conn, fields [][2]string, body string) string {
	t.Helper()
	_, err := io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	require.NoError(t, framer.WriteSettings())
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range fields {
		require.NoError(t, encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	require.NoError(t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}))
	_ = framer.WriteData(1, true, []byte(body)) // it may have been refused by now
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return ""
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return ""
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = framer.WriteSettingsAck()
			}
		}
	}
}

// Nothing cuts a stream because it lasts: neither the time-outs of a server for pages
// nor those of its connections.
func TestStreams_MayLast(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	const lasts = 33 * time.Second // more than what confighttp has for an answer
	u := listen(t, func(p *peer, q *message) bool {
		if !q.readBodyOf(p) {
			return false
		}
		if strings.Contains(q.line, "/late") { // the prompt is long
			time.Sleep(lasts)
		}
		p.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
		if !strings.Contains(q.line, "/late") {
			p.say("6\r\nfirst\n\r\n")
			time.Sleep(lasts)
		}
		p.say("5\r\nlast\n\r\n0\r\n\r\n")
		return true
	})
	tlsSettings, pool := secured(t)
	var wg sync.WaitGroup
	for name, receiver := range map[string][]string{"HTTP/1.1": nil, "HTTP/2": tlsSettings} {
		p := start(t, u.URL(), settings{receiver: receiver})
		client, url := &http.Client{}, p.URL()
		if receiver != nil {
			client.Transport = &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool}}
			url = "https://" + p.address
		}
		for _, path := range []string{"/late", "/quiet"} {
			wg.Go(func() {
				r, err := client.Get(url + path)
				if !assert.NoError(t, err, "%s %s", name, path) {
					return
				}
				body, err := io.ReadAll(r.Body)
				r.Body.Close()
				assert.NoError(t, err, "%s %s", name, path)
				assert.True(t, strings.HasSuffix(string(body), "last\n"), "%s %s: %s", name, path, body)
			})
		}
	}
	wg.Wait()
}

// Ten thousand clients are a matter of memory, not of a limit: docs/performance.md. Here
// hundreds are answered at the same time.
func TestClients_Hundreds(t *testing.T) {
	t.Parallel()
	const n = 500
	all := make(chan struct{})
	arrived := make(chan struct{}, n)
	u := listen(t, func(p *peer, q *message) bool {
		if !q.readBodyOf(p) {
			return false
		}
		arrived <- struct{}{}
		<-all
		p.say("%s", answered)
		return true
	})
	p := start(t, u.URL(), settings{})
	answers := make(chan error, n)
	for range n {
		conn := dial(t, p.address)
		io.WriteString(conn, chat)
		go func() {
			b := make([]byte, 12)
			_, err := io.ReadFull(conn, b)
			if err == nil && string(b) != "HTTP/1.1 200" {
				err = fmt.Errorf("answered %q", b)
			}
			answers <- err
		}()
	}
	for i := range n {
		select {
		case <-arrived:
		case <-time.After(patience):
			t.Fatalf("the proxy lets %d of %d requests through at the same time", i, n)
		}
	}
	p.awaitTotal(n, "llamacpp.proxy.requests.active", otlpsink.With("llamacpp.proxy.phase", "waiting"))
	close(all)
	for range n {
		assert.NoError(t, <-answers)
	}
	p.awaitTotal(0, "llamacpp.proxy.requests.active")
}
