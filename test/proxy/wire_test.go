// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ofConnection are header fields that belong to one connection, not to the message.
var ofConnection = map[string]bool{
	"connection": true, "keep-alive": true, "proxy-connection": true, "transfer-encoding": true, "te": true, "upgrade": true,
	"content-length": true, // compared by the body; the strict parser checks how it is told
	"trailer":        true,
}

// meaning are the fields that have to be the same on both sides of the proxy, by
// their names in lower case, each with its values in order.
func meaning(fields []string) map[string][]string {
	out := map[string][]string{}
	for _, line := range fields {
		n, v, _ := strings.Cut(line, ":")
		if n = strings.ToLower(n); !ofConnection[n] {
			out[n] = append(out[n], strings.Trim(v, " \t"))
		}
	}
	return out
}

// exchange sends the bytes of a request and reads the answer.
func exchange(t testing.TB, address, request string) (answer *message, before []*message) {
	t.Helper()
	conn := dial(t, address)
	go io.WriteString(conn, request)
	method, _, _ := strings.Cut(request, " ")
	answer, before, err := readAnswer(bufio.NewReader(conn), method)
	require.NoError(t, err)
	conn.Close()
	return answer, before
}

// same sends a request to the upstream directly and through the proxy, and demands
// that each side saw the same of the other.
func same(t *testing.T, p *proxy, u *upstream, request string) (q, answer *message) {
	t.Helper()
	u.forget()
	direct, directBefore := exchange(t, u.address, request)
	through, throughBefore := exchange(t, p.address, request)
	seen := u.forget()
	require.Len(t, seen, 2, "one request each: the proxy answered %s %q", through.line, through.body)
	a, b := seen[0], seen[1]

	assert.Equal(t, a.line, b.line)
	assert.Equal(t, meaning(a.header), meaning(b.header), "header of the request")
	assert.Equal(t, string(a.body), string(b.body), "body of the request")
	assert.Equal(t, a.chunked, b.chunked, "how the end of the request is told")
	assert.Equal(t, meaning(a.trailer), meaning(b.trailer), "trailer of the request")

	assert.Equal(t, direct.status(), through.status())
	want, got := meaning(direct.header), meaning(through.header)
	if _, has := want["date"]; !has {
		delete(got, "date") // RFC 9110, 6.6.1, wants one from whoever has a clock
	}
	assert.Equal(t, want, got, "header of the answer")
	assert.Equal(t, string(direct.body), string(through.body), "body of the answer")
	assert.Equal(t, meaning(direct.trailer), meaning(through.trailer), "trailer of the answer")
	assert.Len(t, throughBefore, len(directBefore), "informational answers")
	return b, through
}

func TestRequests_ArriveAsTheyWereSent(t *testing.T) {
	t.Parallel()
	u := serve(t, func(*message) string { return answered })
	p := start(t, u.URL(), settings{})

	for _, method := range []string{
		"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "MKCOL", "REPORT", "QUERY", "M-SEARCH", "get", "x!#$%&'*+.^_`|~1",
	} {
		t.Run("method "+method, func(t *testing.T) {
			same(t, p, u, method+" /v1/models HTTP/1.1\r\nHost: example.test\r\n\r\n")
		})
	}
	for _, target := range []string{
		"/", "//", "//v1//models", "///", "/v1/../props", "/../../etc/passwd", "/./a/.", "/%2e%2e/%2e%2e/slots", "/..%2f..%2fslots", "/a%2Fb", "/a%2fb", "/a%5Cb", `/a\b`,
		"/a;b=c;d", "/;/", "/slots;.css", "/%00", "/%0d%0aX-Injected:%20yes", "/a%20b", "/a+b", "/~tilde", "/%7Etilde", "/é", "/\xff\xfe", "/%C3%A9", "/%c3%a9",
		"/a|b", "/{a}", "/a^b", "/a`b", `/a"b`, "/<a>", "/[a]", "/a:b@c", "/a!$&'()*,=",
		"/?", "/?a", "/?a=1&a=2", "/?a=1;b=2", "/?;", "/?&&", "/?a=%zz", "/?%", "/?a=é", "/?a=\xff", "/?a=b?c=d", "/?url=http://other.test/", "/a??b", "/?a=[1]&b={2}", "/?a=b|c",
		"/a/b/c/" + strings.Repeat("x", 4000), "/?" + strings.Repeat("y=1&", 1000), "/http://other.test/", "/@other.test/", "/:8080/",
	} {
		t.Run("target "+target, func(t *testing.T) {
			same(t, p, u, "GET "+target+" HTTP/1.1\r\nHost: example.test\r\n\r\n")
		})
	}
	for _, header := range []string{
		"Host: example.test",
		"Host: EXAMPLE.test:1234",
		"Host: [::1]:80",
		"Host: example.test\r\nUser-Agent: curl/8",
		"Host: example.test\r\nAccept: text/event-stream, */*;q=0.1\r\nAccept-Encoding: br, gzip;q=0.5\r\nAccept-Language: de",
		"Host: example.test\r\nAuthorization: Bearer k\r\nX-Api-Key: k\r\nCookie: a=b; c=\"d e\"\r\nProxy-Connection: keep-alive",
		"Host: example.test\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2\r\nX-Forwarded-Host: a\r\nX-Forwarded-Proto: https\r\nForwarded: for=10.0.0.1\r\nX-Real-Ip: 10.0.0.1\r\nVia: 1.1 other",
		"Host: example.test\r\nX-Many: 1\r\nX-Many: 2\r\nX-Other: 3\r\nX-Many: 4",
		"Host: example.test\r\nX-Empty:\r\nX-Space:    \t much   inside \t ",
		"Host: example.test\r\nX-Latin: caf\xe9\r\nX-UTF8: café\r\nX-Quoted: \"a\\\"b\"",
		"Host: example.test\r\nX-Long: " + strings.Repeat("z", 30_000),
		"Host: example.test\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=b\r\nbaggage: c=d",
		"Host: example.test\r\nRange: bytes=0-1\r\nIf-None-Match: \"x\"\r\nIf-Modified-Since: Sat, 29 Oct 1994 19:43:31 GMT\r\nReferer: http://a.test/?q\r\nOrigin: null",
		"Host: example.test\r\nConnection: close",
		"Host: example.test\r\nX_Underscore: 1\r\nx.dot: 2\r\nX-!#$%: 3",
	} {
		t.Run("header "+header[:min(len(header), 60)], func(t *testing.T) {
			q, _ := same(t, p, u, "GET / HTTP/1.1\r\n"+header+"\r\n\r\n")
			for name := range q.names() {
				assert.Contains(t, strings.ToLower(header), name+":", "it was added")
			}
		})
	}
	// A trace context is passed on as it is, or names the proxy's span as the parent:
	// see TestTrace. What the connection is told to keep from the next one is not.
	t.Run("Connection names fields", func(t *testing.T) {
		u.forget()
		exchange(t, p.address, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\n\r\n")
		q := u.forget()[0].names()
		assert.False(t, q["x-secret"])
		assert.False(t, q["keep-alive"])
	})
}

func TestBodies_AreNotTouched(t *testing.T) {
	t.Parallel()
	u := serve(t, func(q *message) string {
		head := "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
		if encoding := q.values("Content-Encoding"); len(encoding) > 0 {
			head += "Content-Encoding: " + encoding[0] + "\r\n"
		}
		if q.chunked {
			return head + "Transfer-Encoding: chunked\r\n\r\n" + chunks(q.body, 1000) + "0\r\n\r\n"
		}
		return head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(q.body), q.body)
	})
	p := start(t, u.URL(), settings{})

	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(pattern(5000))
	require.NoError(t, z.Close())
	bodies := map[string][]byte{
		"gzip": zipped.Bytes(), "not gzip": []byte("not gzip at all"), "zeros": make([]byte, 1000), "JSON that is none": []byte(`{"model": "tiny", "stream": tru`),
		"repeated members": []byte(`{"model":"a","model":"b","stream":true,"stream":false,"n":1e400,"x":"\ud800"}`),
	}
	for _, n := range []int{0, 1, 2, 4095, 4096, 4097, 32767, 32768, 65536, 1 << 20, 10<<20 + 1} {
		bodies[strconv.Itoa(n)] = pattern(n)
	}
	for _, name := range slices.Sorted(maps.Keys(bodies)) {
		body := bodies[name]
		extra := "Content-Type: application/json\r\n"
		if strings.Contains(name, "gzip") {
			extra += "Content-Encoding: gzip\r\n"
		}
		for _, path := range []string{"/upload", "/v1/chat/completions"} {
			head := "POST " + path + " HTTP/1.1\r\nHost: a\r\n" + extra
			t.Run(name+" to "+path, func(t *testing.T) {
				if strings.HasPrefix(name, "JSON") || strings.HasPrefix(name, "repeated") || path == "/upload" || len(body) < 1<<20 {
					same(t, p, u, head+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body))
				}
			})
			for _, size := range []int{1, 10, 16384} {
				if len(body)/size > 100_000 {
					continue
				}
				t.Run(fmt.Sprintf("%s in chunks of %d to %s", name, size, path), func(t *testing.T) {
					same(t, p, u, head+"Transfer-Encoding: chunked\r\n\r\n"+chunks(body, size)+"0\r\n\r\n")
				})
			}
		}
	}
	t.Run("trailer", func(t *testing.T) {
		same(t, p, u, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"+chunks(pattern(100), 10)+"0\r\nX-Sum: 42\r\n\r\n")
	})
	t.Run("GET with a body", func(t *testing.T) {
		same(t, p, u, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
		same(t, p, u, "DELETE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
	})
}

// chunks encodes a body without its last chunk.
func chunks(body []byte, size int) string {
	var b strings.Builder
	for chunk := range slices.Chunk(body, size) {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(chunk), chunk)
	}
	return b.String()
}

func TestAnswers_ArriveAsTheyWereSent(t *testing.T) {
	t.Parallel()
	long := string(pattern(100_000))
	answers := map[string]string{
		"no type":            "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>",
		"empty type":         "HTTP/1.1 200 OK\r\nContent-Type:\r\nContent-Length: 13\r\n\r\n<html></html>",
		"empty":              "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"no content":         "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
		"reset content":      "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
		"not modified":       "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 100\r\n\r\n",
		"moved":              "HTTP/1.1 301 Moved\r\nLocation: http://other.test/?a=b\r\nContent-Length: 0\r\n\r\n",
		"found":              "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 4\r\n\r\nhere",
		"see other":          "HTTP/1.1 303 See Other\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
		"temporary":          "HTTP/1.1 307 Temporary Redirect\r\nLocation: //other.test/a\r\nContent-Length: 0\r\n\r\n",
		"permanent":          "HTTP/1.1 308 Permanent Redirect\r\nLocation: relative?x\r\nContent-Length: 0\r\n\r\n",
		"cookies":            "HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/; Secure\r\nSet-Cookie: c=\"d e\"; HttpOnly\r\nContent-Length: 2\r\n\r\nok",
		"gzip":               "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
		"unknown coding":     "HTTP/1.1 200 OK\r\nContent-Encoding: zstd, x-mine\r\nVary: Accept-Encoding\r\nContent-Length: 4\r\n\r\nabcd",
		"chunks":             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks([]byte(long), 777) + "0\r\n\r\n",
		"trailer":            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Time\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Time: 2\r\n\r\n",
		"unannounced":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
		"until the end":      "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + long,
		"CORS":               "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nServer: llama.cpp\r\nContent-Length: 2\r\n\r\nok",
		"security":           "HTTP/1.1 200 OK\r\nContent-Security-Policy: default-src 'self'\r\nCross-Origin-Embedder-Policy: require-corp\r\nCross-Origin-Opener-Policy: same-origin\r\nContent-Length: 2\r\n\r\nok",
		"dated":              "HTTP/1.1 200 OK\r\nDate: Sat, 29 Oct 1994 19:43:31 GMT\r\nAge: 5\r\nContent-Length: 2\r\n\r\nok",
		"odd":                "HTTP/1.1 200 OK\r\nX-Latin: caf\xe9\r\nX-Many: 1\r\nX-Many: 2\r\nX-Empty:\r\nX_Under: 1\r\nContent-Length: 2\r\n\r\nok",
		"range":              "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/10\r\nAccept-Ranges: bytes\r\nContent-Length: 2\r\n\r\nok",
		"bad request":        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 20\r\n\r\n{\"error\":{\"code\":4}}",
		"unauthorized":       "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"a\"\r\nContent-Length: 0\r\n\r\n",
		"not found":          "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
		"too many":           "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno",
		"error":              "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno",
		"bad gateway":        "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno",
		"unavailable":        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: Sat, 29 Oct 2094 19:43:31 GMT\r\nContent-Length: 2\r\n\r\nno",
		"unknown status":     "HTTP/1.1 599 Whatever\r\nContent-Length: 2\r\n\r\nno",
		"early hints":        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"several early ones": "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <b>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	}
	u := listen(t, func(p *peer, q *message) bool {
		if !q.readBodyOf(p) {
			return false
		}
		_, name, _ := strings.Cut(q.line, "name=")
		name, _, _ = strings.Cut(name, " ")
		answer := answers[strings.ReplaceAll(name, "+", " ")]
		if strings.HasPrefix(q.line, "HEAD") {
			head, _, _ := strings.Cut(answer, "\r\n\r\n")
			answer = head + "\r\n\r\n"
		}
		p.say("%s", answer)
		return !strings.HasPrefix(answer, "HTTP/1.0")
	})
	p := start(t, u.URL(), settings{})
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		for _, method := range []string{"GET", "POST", "HEAD"} {
			if method == "HEAD" && strings.Contains(name, "early") { // its head is not the first
				continue
			}
			t.Run(method+" "+name, func(t *testing.T) {
				_, answer := same(t, p, u, method+" /?name="+strings.ReplaceAll(name, " ", "+")+" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
				if method == "HEAD" && answer.status() != 304 && strings.Contains(answers[name], "\r\nContent-Length:") {
					require.Len(t, answer.values("Content-Length"), 1, "a HEAD says how long the answer would be")
					assert.Contains(t, answers[name], "\r\nContent-Length: "+answer.values("Content-Length")[0]+"\r\n")
				}
			})
		}
	}
}

func TestHTTP10_IsAnsweredInItsTerms(t *testing.T) {
	t.Parallel()
	u := serve(t, func(*message) string {
		return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(pattern(5000), 100) + "0\r\n\r\n"
	})
	p := start(t, u.URL(), settings{})
	answer, _ := exchange(t, p.address, "GET /old HTTP/1.0\r\n\r\n")
	assert.Equal(t, 200, answer.status())
	assert.Empty(t, answer.values("Transfer-Encoding"))
	assert.Equal(t, string(pattern(5000)), string(answer.body))

	answer, _ = exchange(t, p.address, "POST /old HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
	assert.Equal(t, 200, answer.status())
	seen := u.requests()
	require.Len(t, seen, 2)
	assert.Equal(t, "POST /old HTTP/1.1", seen[1].line)
	assert.Equal(t, "hello", string(seen[1].body))
}

func TestConnections_AreReusedInOrder(t *testing.T) {
	t.Parallel()
	u := serve(t, func(q *message) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(q.line), q.line)
	})
	p := start(t, u.URL(), settings{})
	conn := dial(t, p.address)
	in := bufio.NewReader(conn)
	// Pipelined: all sent before the first answer is read.
	for i := range 20 {
		fmt.Fprintf(conn, "POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", i)
	}
	for i := range 20 {
		answer, _, err := readAnswer(in, "POST")
		require.NoError(t, err)
		assert.Equal(t, fmt.Sprintf("POST /%d HTTP/1.1", i), string(answer.body))
	}
	assert.Len(t, u.requests(), 20)
}

// A client that asks before it sends a body learns what the server says, before it
// has sent any of it.
func TestExpect_IsTheUpstreamsToAnswer(t *testing.T) {
	t.Parallel()
	u := listen(t, func(p *peer, q *message) bool {
		if strings.Contains(q.line, "/refuse") {
			p.say("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
			return false
		}
		p.say("HTTP/1.1 100 Continue\r\n\r\n")
		if !q.readBodyOf(p) {
			return false
		}
		p.say("%s", answered)
		return true
	})
	p := start(t, u.URL(), settings{})
	for _, path := range []string{"/take", "/refuse"} {
		t.Run(path, func(t *testing.T) {
			conn := dial(t, p.address)
			in := bufio.NewReader(conn)
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", path)
			head, err := readHead(in)
			require.NoError(t, err)
			if path == "/refuse" {
				assert.Equal(t, 401, head.status())
				return
			}
			assert.Equal(t, 100, head.status())
			io.WriteString(conn, "hello")
			answer, _, err := readAnswer(in, "POST")
			require.NoError(t, err)
			assert.Equal(t, 200, answer.status())
			seen := u.requests()
			assert.Equal(t, "hello", string(seen[len(seen)-1].body))
		})
	}
}

func TestWebSocket_IsPassedOnInBothDirections(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{}, 2)
	u := listen(t, func(p *peer, q *message) bool {
		if !assert.Equal(t, []string{"websocket"}, q.values("Upgrade")) {
			return false
		}
		p.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\nhello", q.values("Sec-WebSocket-Key")[0])
		io.Copy(p.Conn, p.in)
		ended <- struct{}{}
		return false
	})
	p := start(t, u.URL(), settings{})
	conn := dial(t, p.address)
	in := bufio.NewReader(conn)
	io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	answer, _, err := readAnswer(in, "GET")
	require.NoError(t, err)
	require.Equal(t, 101, answer.status())
	assert.Equal(t, []string{"dGhlIHNhbXBsZQ=="}, answer.values("Sec-WebSocket-Accept"))
	expect := func(want []byte) {
		t.Helper()
		got := make([]byte, len(want))
		_, err := io.ReadFull(in, got)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(want, got))
	}
	expect([]byte("hello"))
	for _, frame := range [][]byte{{0x81, 0x05}, []byte("\x00\r\n\r\nGET / HTTP/1.1\r\n\r\n"), pattern(300_000)} {
		go conn.Write(frame)
		expect(frame)
	}
	conn.Close()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the upstream does not learn that the client has left")
	}
}

// Each event of a stream is on its way to the client before the next one is written,
// whether the server says that it is a stream of events or not.
func TestStreams_AreFlushedEventByEvent(t *testing.T) {
	t.Parallel()
	const events = 60
	for _, contentType := range []string{"text/event-stream", "application/json"} {
		t.Run(contentType, func(t *testing.T) {
			var sent [events]time.Time
			received := make(chan struct{}, events)
			u := listen(t, func(p *peer, _ *message) bool {
				p.say("HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", contentType)
				for i := range events {
					sent[i] = time.Now()
					text := fmt.Sprintf("data: {\"n\":%d}\n\n", i)
					p.say("%x\r\n%s\r\n", len(text), text)
					<-received
				}
				p.say("0\r\n\r\n")
				return true
			})
			p := start(t, u.URL(), settings{})
			conn := dial(t, p.address)
			in := bufio.NewReader(conn)
			io.WriteString(conn, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
			m, err := readHead(in)
			require.NoError(t, err)
			require.True(t, m.chunked)
			var late []time.Duration
			for i := range events {
				chunk, err := m.nextChunk(in)
				require.NoError(t, err)
				require.Equal(t, fmt.Sprintf("data: {\"n\":%d}\n\n", i), string(chunk))
				late = append(late, time.Since(sent[i]))
				received <- struct{}{}
			}
			chunk, err := m.nextChunk(in)
			require.NoError(t, err)
			require.Nil(t, chunk)
			t.Log(late)
			// A proxy that flushes from time to time lets each event wait, a busy machine
			// only some.
			assert.Less(t, slices.Min(late), 5*time.Millisecond)
		})
	}
}

// The upstream has the beginning of a body before the client has sent its end.
func TestUploads_AreStreamed(t *testing.T) {
	t.Parallel()
	first := make(chan string)
	u := listen(t, func(p *peer, q *message) bool {
		chunk, err := q.nextChunk(p.in)
		if err != nil {
			return false
		}
		first <- string(chunk)
		if !q.readBodyOf(p) {
			return false
		}
		first <- string(q.body)
		p.say("%s", answered)
		return true
	})
	p := start(t, u.URL(), settings{})
	for _, path := range []string{"/upload", "/v1/chat/completions"} {
		t.Run(path, func(t *testing.T) {
			conn := dial(t, p.address)
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n", path)
			expect := func(want string) {
				t.Helper()
				select {
				case got := <-first:
					assert.Equal(t, want, got)
				case <-time.After(10 * time.Second):
					t.Fatal("the body is held back")
				}
			}
			expect("first")
			io.WriteString(conn, "4\r\nlast\r\n0\r\n\r\n")
			expect("last")
			answer, _, err := readAnswer(bufio.NewReader(conn), "POST")
			require.NoError(t, err)
			assert.Equal(t, 200, answer.status())
		})
	}
}

// A server may answer while a body is still on its way.
func TestAnswer_MayComeBeforeTheWholeUpload(t *testing.T) {
	t.Parallel()
	u := listen(t, func(p *peer, q *message) bool {
		if _, err := q.nextChunk(p.in); err != nil {
			return false
		}
		p.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n")
		if !q.readBodyOf(p) {
			return false
		}
		p.say("%x\r\n%s\r\n0\r\n\r\n", len(q.body), q.body)
		return true
	})
	p := start(t, u.URL(), settings{})
	conn := dial(t, p.address)
	in := bufio.NewReader(conn)
	io.WriteString(conn, "POST /both HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
	m, err := readHead(in)
	require.NoError(t, err)
	chunk, err := m.nextChunk(in)
	require.NoError(t, err)
	assert.Equal(t, "early", string(chunk))
	io.WriteString(conn, "4\r\nlast\r\n0\r\n\r\n")
	require.NoError(t, m.readBody(in, false))
	assert.Equal(t, "last", string(m.body))
}

func TestHost_IsTheUpstreamsOwnWhereAsked(t *testing.T) {
	t.Parallel()
	u := serve(t, func(*message) string { return answered })
	p := start(t, u.URL(), settings{receiver: []string{"preserve_host: false", "forwarded_headers: true"}})
	exchange(t, p.address, "GET / HTTP/1.1\r\nHost: example.test\r\nX-Forwarded-For: 10.9.8.7\r\n\r\n")
	q := u.requests()[0]
	assert.Equal(t, []string{u.address}, q.values("Host"))
	assert.Equal(t, []string{"example.test"}, q.values("X-Forwarded-Host"))
	assert.Equal(t, []string{"http"}, q.values("X-Forwarded-Proto"))
	forwarded := strings.Join(q.values("X-Forwarded-For"), ", ")
	host, _, err := net.SplitHostPort(p.address)
	require.NoError(t, err)
	assert.True(t, strings.HasSuffix(forwarded, host), forwarded)
}
