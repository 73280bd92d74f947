// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What the proxy may need on top of what it needs without work, in bytes.
const allowance = 80 << 20

// memory is what the collector's process has in memory, and has had at most.
func memory(t testing.TB, p *proxy) (now, most int64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	require.NoError(t, err)
	read := func(name string) int64 {
		m := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(status)
		require.NotNil(t, m, "%s", status)
		n, err := strconv.ParseInt(string(m[1]), 10, 64)
		require.NoError(t, err)
		return n << 10
	}
	return read("VmRSS"), read("VmHWM")
}

// An upstream that does not even take the connection.
func TestUpstream_HangsBeforeItsConnection(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	raw, err := l.(*net.TCPListener).SyscallConn()
	require.NoError(t, err)
	// The queue of connections that nobody has taken is as short as it can be, and full.
	require.NoError(t, raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) }))
	require.NoError(t, err)
	for i := 0; ; i++ {
		require.Less(t, i, 8, "the queue of connections has no end")
		conn, err := net.DialTimeout("tcp", l.Addr().String(), 200*time.Millisecond)
		if err != nil {
			break
		}
		t.Cleanup(func() { conn.Close() })
	}
	unreachable(t, l.Addr().String(), 504)
}

// block is what huge bodies are made of.
var block = pattern(1 << 20)

// flood writes blocks until the connection ends or enough were written, and counts. The
// sum is complete when the last one is on its way.
func flood(w io.Writer, blocks int, written *atomic.Int64, sum hash.Hash) {
	for range blocks {
		sum.Write(block)
		n, err := w.Write(block)
		written.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// A client that does not read holds up its own server, nobody else, and no memory.
func TestSlowReader_HoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	const blocks = 256
	var written atomic.Int64
	sum := sha256.New()
	ended := make(chan struct{})
	u := listen(t, func(p *peer, q *message) bool {
		if strings.Contains(q.line, "/fine") {
			p.say("%s", answered)
			return true
		}
		p.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n", blocks*len(block))
		flood(p.Conn, blocks, &written, sum)
		close(ended)
		return true
	})
	p := start(t, u.URL(), settings{})
	before, _ := memory(t, p)
	conn := dial(t, p.address)
	io.WriteString(conn, strings.Replace(chat, chatPath, "/completion", 1))

	// All that lies between the two is full.
	var stalled int64
	require.Eventually(t, func() bool {
		last := stalled
		stalled = written.Load()
		return stalled > 0 && stalled == last
	}, patience, 500*time.Millisecond)
	assert.Less(t, stalled, int64(64<<20), "the kernel's buffers, and the proxy's")
	_, most := memory(t, p)
	assert.Less(t, most-before, int64(allowance))

	began := time.Now()
	for range 50 {
		status, _ := do(t, oneShot(), "GET", p.URL()+"/fine", "")
		assert.Equal(t, 200, status)
	}
	assert.Less(t, time.Since(began), 10*time.Second)

	// When it reads at last, all is there.
	in := bufio.NewReader(conn)
	m, err := readHead(in)
	require.NoError(t, err)
	got := sha256.New()
	n, err := io.Copy(got, io.LimitReader(in, m.length))
	require.NoError(t, err)
	assert.EqualValues(t, blocks*len(block), n)
	<-ended
	assert.Equal(t, sum.Sum(nil), got.Sum(nil))
	_, most = memory(t, p)
	assert.Less(t, most-before, int64(allowance))
}

// Bodies of a gigabyte go through in both directions, in little memory, to an
// endpoint that is measured as to any other.
func TestHugeBodies_NeedNoMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("moves four gigabytes")
	}
	t.Parallel()
	const blocks = 1 << 10
	var sums [2]hash.Hash
	u := listen(t, func(p *peer, q *message) bool {
		if q.length > 0 {
			sums[0] = sha256.New()
			if _, err := io.CopyN(sums[0], p.in, q.length); err != nil {
				return false
			}
		}
		p.say("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", blocks*len(block))
		sums[1] = sha256.New()
		flood(p.Conn, blocks, new(atomic.Int64), sums[1])
		return true
	})
	p := start(t, u.URL(), settings{})
	before, _ := memory(t, p)
	for _, path := range []string{"/upload", chatPath} {
		conn := dial(t, p.address)
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, blocks*len(block))
		sent := sha256.New()
		flood(conn, blocks, new(atomic.Int64), sent)
		in := bufio.NewReader(conn)
		m, err := readHead(in)
		require.NoError(t, err)
		require.Equal(t, 200, m.status())
		got := sha256.New()
		_, err = io.CopyN(got, in, m.length)
		require.NoError(t, err)
		assert.Equal(t, sent.Sum(nil), sums[0].Sum(nil), "the request's body")
		assert.Equal(t, sums[1].Sum(nil), got.Sum(nil), "the answer's body")
		_, most := memory(t, p)
		assert.Less(t, most-before, int64(allowance), "%s", path)
	}
	p.awaitTotal(1, "llamacpp.proxy.answers.unread")
}

// A head without an end is refused before the upstream hears of it, and is not kept.
func TestHeaders_HaveALimit(t *testing.T) {
	t.Parallel()
	u := serve(t, func(*message) string { return answered })
	p := start(t, u.URL(), settings{})
	before, _ := memory(t, p)
	const flooded = 64 << 20
	for name, line := range map[string]string{
		"many fields":      "X-Flood: " + strings.Repeat("x", 100) + "\r\n",
		"one endless name": strings.Repeat("x", 100),
		"many small ones":  "a:b\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, p.address)
			status := make(chan int, 1)
			go func() {
				if m, err := readHead(bufio.NewReader(conn)); err == nil {
					status <- m.status()
				}
				close(status)
			}()
			io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n")
			part := strings.Repeat(line, 10_000)
			sent := 0
			for ; sent < flooded; sent += len(part) {
				if _, err := io.WriteString(conn, part); err != nil {
					break
				}
			}
			assert.Less(t, sent, flooded, "the connection ends")
			// A reset, since there is more to come, may overtake the answer.
			if code, told := <-status; told {
				assert.Equal(t, 431, code)
			}
		})
	}
	// A head that is over the limit and has an end is told so.
	conn := dial(t, p.address)
	go io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nX: "+strings.Repeat("x", 1<<20+5000)+"\r\n\r\n")
	m, err := readHead(bufio.NewReader(conn))
	require.NoError(t, err)
	assert.Equal(t, 431, m.status())
	assert.Empty(t, u.requests())
	_, most := memory(t, p)
	assert.Less(t, most-before, int64(allowance))
}

// Many clients that send their heads byte by byte keep nobody away, and are cut.
func TestSlowHeads_AreCut(t *testing.T) {
	t.Parallel()
	u := serve(t, func(*message) string { return answered })
	p := start(t, u.URL(), settings{receiver: []string{"read_header_timeout: 700ms"}})
	const slow = 200
	cut := make(chan time.Duration, slow)
	for range slow {
		conn := dial(t, p.address)
		began := time.Now()
		go func() {
			for _, b := range []byte("GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 10_000)) {
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		}()
		go func() {
			io.Copy(io.Discard, conn)
			cut <- time.Since(began)
		}()
	}
	began := time.Now()
	status, _ := do(t, oneShot(), "GET", p.URL()+"/fine", "")
	assert.Equal(t, 200, status)
	assert.Less(t, time.Since(began), 600*time.Millisecond, "they keep nobody waiting")
	for range slow {
		select {
		case after := <-cut:
			assert.Less(t, after, 10*time.Second)
		case <-time.After(patience):
			t.Fatal("a slow client is not cut")
		}
	}
	assert.Len(t, u.requests(), 1)
}
