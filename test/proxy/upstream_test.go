// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// message is an HTTP/1 request or answer as it came from a connection.
type message struct {
	line    string   // the first
	header  []string // the lines as they are
	chunked bool
	length  int64 // -1 where the header does not say it
	body    []byte
	trailer []string
	whole   bool // its end has come
}

// values are those of a header field, in order. Names are compared as HTTP wants it.
func (m *message) values(name string) []string { return valuesOf(m.header, name) }

func valuesOf(lines []string, name string) []string {
	var out []string
	for _, line := range lines {
		if n, value, _ := strings.Cut(line, ":"); strings.EqualFold(n, name) {
			out = append(out, strings.Trim(value, " \t"))
		}
	}
	return out
}

// names are those of all header fields, in lower case.
func (m *message) names() map[string]bool {
	out := map[string]bool{}
	for _, line := range m.header {
		n, _, _ := strings.Cut(line, ":")
		out[strings.ToLower(n)] = true
	}
	return out
}

// errLoose is a message that another parser could understand differently.
var errLoose = errors.New("a message that can be read in two ways")

func loose(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errLoose, fmt.Sprintf(format, args...))
}

var (
	token = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
	size  = regexp.MustCompile(`^[0-9A-Fa-f]{1,8}$`)
)

// control reports whether a character has no place in a header's value.
func control(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// readLine reads a line that has to end with CR LF and have no other of the two.
func readLine(r *bufio.Reader) (string, error) {
	text, err := r.ReadString('\n')
	if err != nil {
		if text == "" {
			return "", err
		}
		return "", fmt.Errorf("within the line %q: %w", text, err)
	}
	line, found := strings.CutSuffix(text, "\r\n")
	if !found || strings.ContainsAny(line, "\r\n\x00") {
		return "", loose("the line %q", text)
	}
	return line, nil
}

func readFields(r *bufio.Reader) ([]string, error) {
	var out []string
	for {
		line, err := readLine(r)
		if err != nil || line == "" {
			return out, err
		}
		n, v, found := strings.Cut(line, ":")
		if !found || !token.MatchString(n) || strings.ContainsFunc(v, control) {
			return nil, loose("the header line %q", line)
		}
		out = append(out, line)
	}
}

// readHead reads a message up to its body. It is as strict as RFC 9112 allows: a
// request that it takes has one meaning only.
func readHead(r *bufio.Reader) (*message, error) {
	m := &message{length: -1}
	var err error
	if m.line, err = readLine(r); err != nil {
		return nil, err
	}
	if m.header, err = readFields(r); err != nil {
		return nil, err
	}
	length, encoding := m.values("Content-Length"), m.values("Transfer-Encoding")
	switch {
	case len(length)+len(encoding) > 1:
		return nil, loose("its end is told twice: %q", m.header)
	case len(encoding) == 1 && encoding[0] != "chunked":
		return nil, loose("Transfer-Encoding: %s", encoding[0])
	case len(encoding) == 1:
		m.chunked = true
	case len(length) == 1:
		if m.length, err = strconv.ParseInt(length[0], 10, 64); err != nil || length[0][0] < '0' || length[0][0] > '9' {
			return nil, loose("Content-Length: %s", length[0])
		}
	}
	return m, nil
}

// nextChunk reads one chunk, which is empty at the end; then the trailer is set.
func (m *message) nextChunk(r *bufio.Reader) ([]byte, error) {
	line, err := readLine(r)
	if err != nil {
		return nil, err
	}
	if !size.MatchString(line) {
		return nil, loose("the chunk's size %q", line)
	}
	n, err := strconv.ParseInt(line, 16, 64)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		m.trailer, err = readFields(r)
		return nil, err
	}
	chunk := make([]byte, n)
	if _, err := io.ReadFull(r, chunk); err != nil {
		return nil, err
	}
	if line, err := readLine(r); err != nil || line != "" {
		return nil, loose("after a chunk: %q", line)
	}
	return chunk, nil
}

// readBody reads the rest of a message. An answer without a length goes on until the
// connection ends.
func (m *message) readBody(r *bufio.Reader, untilEnd bool) error {
	var err error
	switch {
	case m.chunked:
		for {
			chunk, err := m.nextChunk(r)
			if err != nil || chunk == nil {
				m.whole = err == nil
				return err
			}
			m.body = append(m.body, chunk...)
		}
	case m.length > 0:
		m.body = make([]byte, m.length)
		_, err = io.ReadFull(r, m.body)
	case m.length < 0 && untilEnd:
		m.body, err = io.ReadAll(r)
	}
	m.whole = err == nil
	return err
}

// readAnswer reads the answer to a request with a method, whatever informational ones
// come before.
func readAnswer(r *bufio.Reader, method string) (answer *message, before []*message, err error) {
	for {
		m, err := readHead(r)
		if err != nil {
			return nil, before, err
		}
		code := m.status()
		if code >= 100 && code < 200 && code != 101 {
			before = append(before, m)
			continue
		}
		if method == "HEAD" || code == 101 || code == 204 || code == 304 {
			return m, before, nil
		}
		err = m.readBody(r, true)
		return m, before, err
	}
}

// status is that of an answer.
func (m *message) status() int {
	_, rest, _ := strings.Cut(m.line, " ")
	code, _, _ := strings.Cut(rest, " ")
	n, _ := strconv.Atoi(code)
	return n
}

// peer is a connection that an upstream has got.
type peer struct {
	net.Conn
	in       *bufio.Reader
	upstream *upstream
}

// say writes bytes as they are.
func (p *peer) say(format string, args ...any) {
	fmt.Fprintf(p.Conn, format, args...) // nobody may be there any more
}

// upstream is a server behind the proxy that reads its requests strictly and keeps
// all of them.
type upstream struct {
	address string
	wg      sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	opened int
	busy   int // requests that are being answered
	seen   []*message
	faults []error
}

// answered is the default answer.
const answered = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"

// serve runs an upstream that answers each request, of which the body has been read,
// with the bytes that the function returns; then the connection goes on.
func serve(t testing.TB, answer func(q *message) string) *upstream {
	t.Helper()
	return listen(t, func(p *peer, q *message) bool {
		if !q.readBodyOf(p) {
			return false
		}
		p.say("%s", answer(q))
		return true
	})
}

// readBodyOf reads the rest of a request, and reports whether it has come.
func (m *message) readBodyOf(p *peer) bool {
	err := m.readBody(p.in, false)
	p.upstream.fault(err)
	return err == nil
}

// listen runs an upstream that does with a connection what the function does, once
// for each head of a request; while it returns true the connection goes on.
func listen(t testing.TB, answer func(p *peer, q *message) bool) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	u := &upstream{address: l.Addr().String(), conns: map[net.Conn]bool{}}
	u.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			u.mu.Lock()
			u.conns[conn] = true
			u.opened++
			u.mu.Unlock()
			u.wg.Go(func() { u.talk(conn, answer) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		u.cut()
		u.wg.Wait()
		for _, fault := range u.faults {
			t.Error(fault)
		}
	})
	return u
}

// URL is the upstream's.
func (u *upstream) URL() string { return "http://" + u.address }

func (u *upstream) talk(conn net.Conn, answer func(p *peer, q *message) bool) {
	defer func() {
		u.mu.Lock()
		delete(u.conns, conn)
		u.mu.Unlock()
		conn.Close()
	}()
	p := &peer{conn, bufio.NewReader(conn), u}
	for {
		q, err := readHead(p.in)
		if err == nil && (strings.Count(q.line, " ") != 2 || !strings.HasSuffix(q.line, " HTTP/1.1")) {
			err = loose("the line %q", q.line)
		}
		if err != nil {
			u.fault(err)
			return
		}
		u.mu.Lock()
		u.seen = append(u.seen, q)
		u.busy++
		u.mu.Unlock()
		goesOn := answer(p, q)
		u.mu.Lock()
		u.busy--
		u.mu.Unlock()
		if !goesOn {
			return
		}
	}
}

// fault keeps what the proxy must never send.
func (u *upstream) fault(err error) {
	if errors.Is(err, errLoose) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.faults = append(u.faults, err)
	}
}

// cut closes all connections.
func (u *upstream) cut() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for conn := range u.conns {
		conn.Close()
	}
}

// requests are those that came so far. One whose body is not complete may change.
func (u *upstream) requests() []*message {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]*message(nil), u.seen...)
}

// settle waits until no request is being answered and none has come for a moment.
func (u *upstream) settle(t testing.TB) {
	t.Helper()
	const moment = 15 * time.Millisecond
	count := func() (n, busy int) {
		u.mu.Lock()
		defer u.mu.Unlock()
		return len(u.seen), u.busy
	}
	for end := time.Now().Add(patience); ; {
		before, _ := count()
		time.Sleep(moment)
		if after, busy := count(); after == before && busy == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("a request at the upstream does not end")
		}
	}
}

// forget forgets the requests that came so far, and returns them.
func (u *upstream) forget() []*message {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := u.seen
	u.seen = nil
	return out
}

// reset ends a connection with a reset instead of an end.
func reset(conn net.Conn) {
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

// gone waits until the other side has left a connection.
func gone(p *peer) {
	for {
		if _, err := p.in.ReadByte(); err != nil {
			return
		}
	}
}

// pattern is a body of a size, no part of which is like another.
func pattern(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%08x ", i*2654435761)
	}
	return b.Bytes()[:n]
}
