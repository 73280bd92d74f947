// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// smuggled is a request within what another parser takes for a body.
const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

// attacks are requests that have two readings. The classes are those of PortSwigger's
// research on HTTP desynchronization (CL.TE, TE.CL, TE.TE, CL.0, TE.0, hop-by-hop
// fields, Expect), of "Funky chunks" (TERM.EXT, EXT.TERM, TERM.SPILL, SPILL.TERM), and
// what HTTP Garden, nginx-tests (http_headers, http_chunked, http_request_line) and
// net/http's own tests (readRequest, transfer) found that parsers differ in. The bytes
// are written for this test.
//
// want are the requests that the upstream may see, each with its body: those that the
// proxy answers one by one. Where there are none, it has to refuse the request.
var attacks = []struct {
	source, name, bytes string
	want                []string
}{
	{"PortSwigger", "CL.TE", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, []string{"POST /a ", "GET /smuggled "}},
	{"PortSwigger", "TE.CL", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n23\r\n" + smuggled + "\r\n0\r\n\r\n", []string{"POST /a " + smuggled}},
	{"PortSwigger", "TE.TE: other coding", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled, nil},
	{"PortSwigger", "TE.TE: two fields", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n" + smuggled, nil},
	{"PortSwigger", "TE.TE: two fields, the other first", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, nil},
	{"PortSwigger", "TE.TE: a list", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + smuggled, nil},
	{"PortSwigger", "TE.TE: a list with chunked last", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + smuggled, nil},
	{"PortSwigger", "TE.TE: chunked twice", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, nil},
	{"PortSwigger", "TE.TE: identity", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled, nil},
	{"PortSwigger", "TE.TE: empty", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled, nil},
	{"PortSwigger", "TE.TE: quoted", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled, nil},
	{"PortSwigger", "TE.TE: vertical tab", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \vchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled, nil},
	{"PortSwigger", "TE.TE: NUL", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\x00\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled, nil},
	{"PortSwigger", "TE.TE: parameter", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;a=b\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled, nil},
	{"PortSwigger", "TE.TE: space before the colon", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled, nil},
	{"PortSwigger", "TE.TE: tab before the colon", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled, nil},
	{"PortSwigger", "TE.TE: no colon", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled, nil},
	{"PortSwigger", "TE.TE: after a bare LF in a value", "POST /a HTTP/1.1\r\nHost: a\r\nX: x\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []string{"POST /a "}},
	{"PortSwigger", "TE.TE: after a bare CR in a value", "POST /a HTTP/1.1\r\nHost: a\r\nX: x\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", nil},
	{"PortSwigger", "TE.TE: other case", "POST /a HTTP/1.1\r\nHost: a\r\ntRANSFER-eNCODING: cHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n", []string{"POST /a hello"}},
	{"PortSwigger", "TE.TE: underscore", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", []string{"POST /a 0\r\n\r\n"}},
	{"PortSwigger", "CL.0", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n" + smuggled, []string{"POST /a " + smuggled}},
	{"PortSwigger", "CL.0: GET", "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n" + smuggled, []string{"GET /a " + smuggled}},
	{"PortSwigger", "CL.0: HEAD", "HEAD /a HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n" + smuggled, []string{"HEAD /a " + smuggled}},
	{"PortSwigger", "TE.0: OPTIONS", "OPTIONS /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n23\r\n" + smuggled + "\r\n0\r\n\r\n", []string{"OPTIONS /a " + smuggled}},
	{"PortSwigger", "0.CL: folded length", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 35\r\n\r\n" + smuggled, []string{"POST /a " + smuggled}},
	{"PortSwigger", "pause: the head without its body's end, then another", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + "GET /b HTTP/1.1\r\nHost: a\r\n\r\n", []string{"POST /a hello", "GET /b "}},
	{"PortSwigger", "Expect: obfuscated", "POST /a HTTP/1.1\r\nHost: a\r\nExpect: y 100-continue\r\nContent-Length: 35\r\n\r\n" + smuggled, []string{"POST /a " + smuggled}},
	{"PortSwigger", "hop by hop: Connection names Content-Length", "POST /a HTTP/1.1\r\nHost: a\r\nConnection: Content-Length\r\nContent-Length: 35\r\n\r\n" + smuggled, []string{"POST /a " + smuggled}},
	{"PortSwigger", "hop by hop: Connection names Transfer-Encoding", "POST /a HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n23\r\n" + smuggled + "\r\n0\r\n\r\n", []string{"POST /a " + smuggled}},
	{"PortSwigger", "hop by hop: Connection names Host", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: Host\r\n\r\n", []string{"GET /a "}},

	{"Funky chunks", "EXT: extension", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0;z\r\n\r\n", []string{"POST /a hello"}},
	{"Funky chunks", "TERM.EXT: LF within an extension", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;\nxx\r\n28\r\n0\r\n\r\n" + smuggled + "\r\n0\r\n\r\n", nil},
	{"Funky chunks", "EXT.TERM: CR within an extension", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;\rxx\r\n28\r\n0\r\n\r\n" + smuggled + "\r\n0\r\n\r\n", nil},
	{"Funky chunks", "TERM: LF ends a size", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", nil},
	{"Funky chunks", "SPILL: LF ends a chunk", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n", nil},
	{"Funky chunks", "SPILL: two bytes end a chunk", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n", nil},
	{"Funky chunks", "SPILL: nothing ends a chunk", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n", nil},
	{"HTTP Garden", "chunk size 0x5", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", nil},
	{"HTTP Garden", "chunk size +5", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", nil},
	{"HTTP Garden", "chunk size -5", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", nil},
	{"HTTP Garden", "chunk size 0_5", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0_5\r\nhello\r\n0\r\n\r\n", nil},
	{"HTTP Garden", "chunk size empty", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n", nil},
	{"HTTP Garden", "chunk size with NUL", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\x00\r\nhello\r\n0\r\n\r\n", nil},
	{"HTTP Garden", "chunk size of 17 digits", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n", nil},
	{"HTTP Garden", "chunk size with leading zeros", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0005\r\nhello\r\n000\r\n\r\n", []string{"POST /a hello"}},
	{"HTTP Garden", "a length in the trailer", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\nContent-Length: 35\r\n\r\n", nil},
	{"HTTP Garden", "an unannounced length in the trailer", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 35\r\nHost: b\r\n\r\n", []string{"POST /a "}},
	{"HTTP Garden", "length +5", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", nil},
	{"HTTP Garden", "length -5", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello", nil},
	{"HTTP Garden", "length 0x5", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello", nil},
	{"HTTP Garden", "length 5_0", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5_0\r\n\r\nhello", nil},
	{"HTTP Garden", "length 1e1", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1e1\r\n\r\nhello", nil},
	{"HTTP Garden", "length 5 6", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5 6\r\n\r\nhello", nil},
	{"HTTP Garden", "length 5, 5", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", nil},
	{"HTTP Garden", "length empty", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nhello", nil},
	{"HTTP Garden", "length over 64 bits", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\nhello", nil},
	{"HTTP Garden", "length with leading zeros", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0005\r\n\r\nhello", []string{"POST /a hello"}},
	{"HTTP Garden", "two lengths that differ", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\nhello", nil},
	{"HTTP Garden", "two lengths that are equal", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", []string{"POST /a hello"}},
	{"HTTP Garden", "NUL in a name", "GET /a HTTP/1.1\r\nHost: a\r\nX\x00: 1\r\n\r\n", nil},
	{"HTTP Garden", "NUL in a value", "GET /a HTTP/1.1\r\nHost: a\r\nX: 1\x002\r\n\r\n", nil},
	{"HTTP Garden", "space in a name", "GET /a HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n", nil},
	{"HTTP Garden", "empty name", "GET /a HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", nil},
	{"HTTP Garden", "first field begins with a space", "GET /a HTTP/1.1\r\n Host: a\r\n\r\n", nil},
	{"HTTP Garden", "folded value", "GET /a HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", []string{"GET /a "}},
	{"HTTP Garden", "bare LF ends the lines", "GET /a HTTP/1.1\nHost: a\n\n", []string{"GET /a "}},
	{"HTTP Garden", "HTTP/0.9", "GET /a\r\n\r\n", nil},
	{"HTTP Garden", "HTTP/1.0 with chunks", "POST /a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", []string{"POST /a "}},
	{"HTTP Garden", "HTTP/1.0 with both", "POST /a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled, []string{"POST /a 0\r\n\r\n"}},
	{"HTTP Garden", "unknown version", "GET /a HTTP/3.7\r\nHost: a\r\n\r\n", nil},
	{"HTTP Garden", "version in lower case", "GET /a http/1.1\r\nHost: a\r\n\r\n", nil},
	{"HTTP Garden", "version with more digits", "GET /a HTTP/1.10\r\nHost: a\r\n\r\n", nil},
	{"nginx-tests http_request_line", "two spaces", "GET  /a HTTP/1.1\r\nHost: a\r\n\r\n", nil},
	{"nginx-tests http_request_line", "tab", "GET\t/a HTTP/1.1\r\nHost: a\r\n\r\n", nil},
	{"nginx-tests http_request_line", "space in the target", "GET /a HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n", nil},
	{"nginx-tests http_request_line", "no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n", nil},
	{"nginx-tests http_request_line", "target without a slash", "GET a HTTP/1.1\r\nHost: a\r\n\r\n", nil},
	{"nginx-tests http_request_line", "method with a colon", "GE:T /a HTTP/1.1\r\nHost: a\r\n\r\n", nil},
	{"nginx-tests http_request_line", "control character in the target", "GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n", nil},
	{"nginx-tests http_request_line", "DEL in the target", "GET /a\x7fb HTTP/1.1\r\nHost: a\r\n\r\n", nil},
	{"nginx-tests http_request_line", "broken escape", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", nil},
	{"nginx-tests http_host", "no Host", "GET /a HTTP/1.1\r\n\r\n", nil},
	{"nginx-tests http_host", "two Hosts", "GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", nil},
	{"nginx-tests http_host", "Host with a slash", "GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n", nil},
	{"nginx-tests http_host", "Host with a space", "GET /a HTTP/1.1\r\nHost: a b\r\n\r\n", nil},
	{"nginx-tests http_host", "absolute target with another Host", "GET http://b/a HTTP/1.1\r\nHost: a\r\n\r\n", []string{"GET /a "}},
	{"net/http readRequest", "CONNECT", "CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n", nil},
	{"net/http readRequest", "* for OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", []string{"OPTIONS * "}},
	{"net/http readRequest", "HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", nil},
	{"net/http serve", "upgrade to h2c", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n" + smuggled, []string{"GET /a ", "GET /smuggled "}},
	{"net/http serve", "an upgrade that the server refuses", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777\r\n\r\n" + smuggled, []string{"GET /a ", "GET /smuggled "}},
}

// The upstream reads strictly: what it could read in another way than the proxy is a
// fault, and so is any request that the proxy did not take for one.
func TestSmuggling_TheUpstreamSeesWhatTheProxyRead(t *testing.T) {
	t.Parallel()
	u := serve(t, func(q *message) string {
		if strings.HasPrefix(q.line, "HEAD") {
			return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
		}
		return answered
	})
	p := start(t, u.URL(), settings{})
	// Each has a target of its own, since a part of the one before may reach the upstream
	// late.
	numbered := regexp.MustCompile(`/a(\d{3})`)
	for i, a := range attacks {
		t.Run(a.source+"/"+a.name, func(t *testing.T) {
			u.forget()
			conn := dial(t, p.address)
			go io.WriteString(conn, strings.Replace(a.bytes, "/a", fmt.Sprintf("/a%03d", i), 1))
			in := bufio.NewReader(conn)
			method, _, _ := strings.Cut(a.bytes, " ")
			var statuses []int
			for range max(1, len(a.want)) {
				// Where a body is not complete, the proxy waits for its rest.
				if a.want == nil {
					require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Second)))
				}
				answer, _, err := readAnswer(in, method)
				if err != nil {
					assert.NotErrorIs(t, err, errLoose)
					break
				}
				statuses = append(statuses, answer.status())
				method = "GET" // of what follows
			}
			conn.Close()
			u.settle(t)
			var seen []string
			for _, q := range u.forget() {
				if n := numbered.FindStringSubmatch(q.line); len(n) > 1 && n[1] != fmt.Sprintf("%03d", i) {
					assert.False(t, q.whole, "late: %s", q.line)
					continue
				}
				line := numbered.ReplaceAllString(strings.TrimSuffix(q.line, "HTTP/1.1"), "/a")
				assert.NotEqual(t, q.line, line, "the version is the proxy's own")
				for _, name := range []string{"Content-Length", "Transfer-Encoding", "Host"} {
					assert.Empty(t, valuesOf(q.trailer, name), "%s in the trailer", name)
				}
				// A part may have been passed on, as streams want it, when the rest turned out
				// to be wrong: then its end has not.
				assert.True(t, q.whole || a.want == nil, "cut: %s", q.line)
				if q.whole {
					seen = append(seen, line+string(q.body))
				}
			}
			if a.want == nil {
				assert.Empty(t, seen, "answered with %v", statuses)
				for _, status := range statuses {
					assert.GreaterOrEqual(t, status, 400)
				}
				return
			}
			assert.Equal(t, a.want, append([]string{}, seen...), "answered with %v", statuses)
		})
	}
	// After all of that, the proxy is as it was.
	status, body := do(t, oneShot(), "GET", p.URL()+"/still", "")
	assert.Equal(t, 200, status)
	assert.Equal(t, "ok", body)
}

// What a server sends beyond its answer is nobody else's answer.
func TestSmuggling_OfAnswers(t *testing.T) {
	t.Parallel()
	const stolen = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
	answers := map[string]string{
		"a second answer":        answered + stolen,
		"a body after 204":       "HTTP/1.1 204 No Content\r\n\r\n" + stolen,
		"a body after 304":       "HTTP/1.1 304 Not Modified\r\nContent-Length: 43\r\n\r\n" + stolen,
		"shorter than its body":  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + stolen,
		"two lengths":            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 45\r\n\r\nok" + stolen,
		"length and chunks":      "HTTP/1.1 200 OK\r\nContent-Length: 48\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + stolen,
		"line break in a header": "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok" + stolen,
		"unknown coding":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n\r\n" + stolen,
		"no status":              "HTTP/1.1\r\n\r\n" + stolen,
		"nonsense":               "nonsense\r\n\r\n" + stolen,
		"HEAD with a body":       "HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n" + stolen,
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := serve(t, func(q *message) string {
				if strings.Contains(q.line, "/attack") {
					return answer
				}
				return "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine"
			})
			p := start(t, u.URL(), settings{})
			method := "GET"
			if strings.HasPrefix(name, "HEAD") {
				method = "HEAD"
			}
			for i := range 5 {
				attacker := dial(t, p.address)
				fmt.Fprintf(attacker, "%s /attack HTTP/1.1\r\nHost: a\r\n\r\n", method)
				got, _, err := readAnswer(bufio.NewReader(attacker), method)
				require.NotErrorIs(t, err, errLoose)
				if err == nil && method == "GET" {
					assert.NotContains(t, string(got.body)+strings.Join(got.header, "\n"), "stolen\r\n", i)
				}
				victim, _ := exchange(t, p.address, "GET /victim HTTP/1.1\r\nHost: a\r\n\r\n")
				assert.Equal(t, "mine", string(victim.body))
				attacker.Close()
			}
		})
	}
}
