// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// chat is a request for a completion.
const (
	chatBody = `{"model":"tiny","messages":[{"role":"user","content":"one two"}],"stream":true}`
	chatPath = "/v1/chat/completions"
)

var chat = fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", chatPath, len(chatBody), chatBody)

// An upstream that does not answer is named, with what is the matter, and so it is in
// the metrics.
func TestUpstream_Unreachable(t *testing.T) {
	t.Parallel()
	t.Run("refuses connections", func(t *testing.T) {
		t.Parallel()
		unreachable(t, fmt.Sprintf("127.0.0.1:%d", freeport.For(t)), 502)
	})
	t.Run("does not answer", func(t *testing.T) {
		t.Parallel()
		u := listen(t, func(p *peer, q *message) bool {
			q.readBodyOf(p)
			gone(p)
			return false
		})
		unreachable(t, u.address, 504)
		assert.Len(t, u.requests(), 1, "it is asked once")
	})
}

func unreachable(t *testing.T, upstream string, status int) {
	t.Helper()
	p := start(t, "http://"+upstream, settings{upstream: []string{"timeout: 500ms"}})
	began := time.Now()
	got, text := do(t, oneShot(), "POST", p.URL()+chatPath, chatBody)
	assert.Equal(t, status, got)
	assert.Less(t, time.Since(began), 10*time.Second)
	assert.Contains(t, text, upstream, "which upstream")
	assert.Greater(t, len(text), len(upstream)+20, "what is the matter: %s", text)
	p.awaitOutcomes(map[string]int{"failed": 1})
	p.awaitTotal(1, "http.server.request.duration", otlpsink.With("http.response.status_code", fmt.Sprint(status)))
	p.awaitTotal(0, "llamacpp.proxy.requests.active")
}

// Nothing is ever asked twice, not even what HTTP allows to repeat, and a request that
// cannot be answered says so.
func TestUpstream_IsAskedOnce(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(p *peer){
		"closes": func(p *peer) { p.Close() },
		"resets": func(p *peer) { reset(p.Conn) },
	} {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "POST with Idempotency-Key"} {
			t.Run(name+" on "+method, func(t *testing.T) {
				t.Parallel()
				u := listen(t, func(p *peer, q *message) bool {
					if !q.readBodyOf(p) {
						return false
					}
					if strings.Contains(q.line, "/lost") {
						end(p)
						return false
					}
					p.say("%s", answered)
					return true
				})
				p := start(t, u.URL(), settings{})
				for range 3 {
					// The connection to the upstream has been used, and is kept.
					status, _ := do(t, oneShot(), "GET", p.URL()+"/fine", "")
					require.Equal(t, 200, status)
					u.forget()
					verb, key, _ := strings.Cut(method, " with ")
					request := verb + " /lost HTTP/1.1\r\nHost: a\r\n"
					if key != "" {
						request += key + ": 1\r\n"
					}
					if verb == "POST" || verb == "PUT" {
						request += "Content-Length: 5\r\n\r\nhello"
					} else {
						request += "\r\n"
					}
					answer, _ := exchange(t, p.address, request)
					assert.Equal(t, 502, answer.status())
					assert.Len(t, u.forget(), 1)
				}
			})
		}
	}
}

// A server that has been started again is one that answers.
func TestUpstream_IsRestartedBetweenRequests(t *testing.T) {
	t.Parallel()
	u := serve(t, func(*message) string { return answered })
	p := start(t, u.URL(), settings{})
	for range 20 {
		status, body := do(t, oneShot(), "POST", p.URL()+chatPath, chatBody)
		assert.Equal(t, 200, status, body)
		u.cut()
		time.Sleep(20 * time.Millisecond) // the proxy learns of it
	}
	assert.Len(t, u.requests(), 20)
}

// What the upstream refuses is the client's to see, with all that the server says of it.
func TestErrors_OfTheUpstreamArePassedOn(t *testing.T) {
	t.Parallel()
	const text = `{"error":{"code":429,"message":"slow down","type":"rate_limit_error"}}`
	statuses := []int{400, 401, 403, 404, 413, 422, 429, 500, 501, 502, 503, 504}
	u := serve(t, func(q *message) string {
		status := q.values("X-Status")[0]
		return fmt.Sprintf("HTTP/1.1 %s Of The Test\r\nRetry-After: 17\r\nX-RateLimit-Reset: 5\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(text), text)
	})
	p := start(t, u.URL(), settings{})
	rejected, failed := 0, 0
	for _, status := range statuses {
		_, answer := same(t, p, u, strings.Replace(chat, "Host: a", fmt.Sprintf("Host: a\r\nX-Status: %d", status), 1))
		assert.Equal(t, status, answer.status())
		assert.JSONEq(t, text, string(answer.body))
		assert.Equal(t, []string{"17"}, answer.values("Retry-After"))
		if status < 500 {
			rejected++
		} else {
			failed++
		}
	}
	p.awaitOutcomes(map[string]int{"rejected": rejected, "failed": failed})
	for _, status := range statuses {
		p.awaitTotal(1, "http.server.request.duration", otlpsink.With("http.response.status_code", fmt.Sprint(status)))
		p.awaitTotal(1, "gen_ai.server.request.duration", otlpsink.With("error.type", fmt.Sprint(status)))
	}
}

// An answer that ends too early ends too early for the client too: it must not look
// like a whole one.
func TestAnswers_ThatAreCutAreCut(t *testing.T) {
	t.Parallel()
	const event = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":null,\"index\":0}],\"model\":\"tiny\"}\n\n"
	for name, c := range map[string]struct {
		head string
		end  func(p *peer)
	}{
		"chunks, closed":       {"Transfer-Encoding: chunked\r\n\r\n", func(p *peer) { p.Close() }},
		"chunks, reset":        {"Transfer-Encoding: chunked\r\n\r\n", func(p *peer) { reset(p.Conn) }},
		"chunks, within one":   {"Transfer-Encoding: chunked\r\n\r\n", func(p *peer) { p.say("ff\r\nda"); p.Close() }},
		"chunks, nonsense":     {"Transfer-Encoding: chunked\r\n\r\n", func(p *peer) { p.say("nonsense\r\n"); p.Close() }},
		"known length, closed": {"Content-Length: 100000\r\n\r\n", func(p *peer) { p.Close() }},
		"known length, reset":  {"Content-Length: 100000\r\n\r\n", func(p *peer) { reset(p.Conn) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := listen(t, func(p *peer, q *message) bool {
				if !q.readBodyOf(p) {
					return false
				}
				p.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%s", c.head)
				if strings.HasPrefix(c.head, "Transfer") {
					p.say("%x\r\n%s\r\n", len(event), event)
				} else {
					p.say("%s", event)
				}
				time.Sleep(100 * time.Millisecond) // it is on its way
				c.end(p)
				return false
			})
			p := start(t, u.URL(), settings{})
			conn := dial(t, p.address)
			io.WriteString(conn, chat)
			answer, _, err := readAnswer(bufio.NewReader(conn), "POST")
			require.Error(t, err, "%s", answer.body)
			assert.NotErrorIs(t, err, errLoose)
			assert.Equal(t, 200, answer.status())
			if answer.chunked {
				assert.True(t, strings.HasPrefix(string(answer.body), event), "what came is passed on")
			}
			assert.Len(t, u.requests(), 1, "it is asked once")
			p.awaitOutcomes(map[string]int{"failed": 1})
		})
	}
}

// A client that leaves frees its slot: the upstream learns of it at once.
func TestClients_ThatLeave(t *testing.T) {
	t.Parallel()
	const leaves = 15
	const event = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":null,\"index\":0}],\"model\":\"tiny\"}\n\n"
	for name, answers := range map[string]bool{"before an answer": false, "within a stream": true} {
		for how, leave := range map[string]func(net.Conn){"closes": func(c net.Conn) { c.Close() }, "resets": reset} {
			t.Run(how+" "+name, func(t *testing.T) {
				t.Parallel()
				there, left := make(chan bool, 1), make(chan time.Time, 1)
				u := listen(t, func(p *peer, q *message) bool {
					if !q.readBodyOf(p) {
						return false
					}
					if answers {
						p.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(event), event)
					}
					there <- true
					gone(p)
					left <- time.Now()
					return false
				})
				p := start(t, u.URL(), settings{})
				var took []time.Duration
				for range leaves {
					conn := dial(t, p.address)
					io.WriteString(conn, chat)
					<-there
					if answers {
						_, err := readHead(bufio.NewReader(conn))
						require.NoError(t, err)
					}
					time.Sleep(5 * time.Millisecond)
					began := time.Now()
					leave(conn)
					select {
					case at := <-left:
						took = append(took, at.Sub(began))
					case <-time.After(patience):
						t.Fatal("the upstream does not learn of it")
					}
				}
				slices.Sort(took)
				assert.Less(t, took[leaves/2], 100*time.Millisecond, "%v", took)
				p.awaitOutcomes(map[string]int{"cancelled": leaves})
				p.eventually(func() bool { return p.total("llamacpp.proxy.requests.active") == 0 }, "none is active")
			})
		}
	}
}

// A client that leaves in the middle of its own body.
func TestClients_ThatLeaveWithinAnUpload(t *testing.T) {
	t.Parallel()
	whole, left := make(chan bool, 1), make(chan time.Time, 1)
	u := listen(t, func(p *peer, q *message) bool {
		err := q.readBody(p.in, false)
		whole <- err == nil
		left <- time.Now()
		return false
	})
	p := start(t, u.URL(), settings{})
	for _, head := range []string{"Content-Length: 100\r\n\r\n{\"model\":", "Transfer-Encoding: chunked\r\n\r\n9\r\n{\"model\":\r\n"} {
		conn := dial(t, p.address)
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\n%s", chatPath, head)
		otlpsink.Eventually(t, patience, func() bool { return len(u.requests()) > 0 }, "the upload begins")
		began := time.Now()
		conn.Close()
		select {
		case at := <-left:
			assert.Less(t, at.Sub(began), 5*time.Second)
			assert.False(t, <-whole, "the half of a body is no body")
		case <-time.After(patience):
			t.Fatal("the upstream does not learn of it")
		}
		u.forget()
	}
}

// refused reports whether nobody takes connections at an address.
func refused(address string) bool {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err == nil {
		conn.Close()
		return false
	}
	var timeout net.Error
	return !errors.As(err, &timeout) || !timeout.Timeout()
}
