// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package webguard

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
)

// request is what a browser or a program sends.
type request struct {
	method, host string
	headers      [][2]string
	from         string // by default a loopback address
}

func ask(t *testing.T, g Guard, q request) (status int, reason string) {
	t.Helper()
	g.Refuse = func(w http.ResponseWriter, s string) {
		reason = s
		w.WriteHeader(http.StatusForbidden)
	}
	r := httptest.NewRequestWithContext(t.Context(), q.method, "http://localhost/", http.NoBody)
	r.Host, r.RemoteAddr = q.host, cmp.Or(q.from, "127.0.0.1:54321")
	for _, h := range q.headers {
		r.Header.Set(h[0], h[1])
	}
	w := httptest.NewRecorder()
	g.Protect(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })).ServeHTTP(w, r)
	return w.Code, reason
}

func origin(v string) [][2]string { return [][2]string{{"Origin", v}} }

func TestGuard_AnswersOnlyWhoCannotBeAPageElsewhere(t *testing.T) {
	const passed, refused = http.StatusNoContent, http.StatusForbidden
	network := Guard{}
	local := Guard{LoopbackOnly: true, Hosts: []string{"Dash.Example", "2001:DB8::7", "192.0.2.8"}}
	readOnly := Guard{ReadOnly: true}
	auth := Guard{Authenticated: true, LoopbackOnly: true}
	for name, test := range map[string]struct {
		guard Guard
		request
		want int
	}{
		"loopback reads":                               {local, request{"GET", "127.0.0.1:9465", nil, ""}, passed},
		"localhost changes":                            {local, request{"POST", "LocalHost:9465", nil, ""}, passed},
		"IPv6 without a port changes":                  {local, request{"POST", "[::1]", nil, ""}, passed},
		"loopback in IPv6's clothes":                   {local, request{"POST", "[::ffff:127.0.0.1]:1", nil, ""}, passed},
		"its own page changes":                         {local, request{"POST", "localhost:9465", origin("http://localhost:9465"), ""}, passed},
		"another port's page changes":                  {local, request{"POST", "localhost:9465", origin("http://localhost:3000"), ""}, refused},
		"another site's page changes":                  {local, request{"DELETE", "localhost:9465", origin("https://evil.example"), ""}, refused},
		"a long query from the network":                {readOnly, request{"POST", "192.0.2.7:9465", nil, ""}, passed},
		"a long query of another site's page":          {readOnly, request{"POST", "192.0.2.7:9465", origin("https://evil.example"), ""}, refused},
		"an address of the network reads":              {network, request{"GET", "192.0.2.7:9465", nil, ""}, passed},
		"… where loopback is asked for":                {local, request{"GET", "192.0.2.7:9465", nil, ""}, refused},
		"an allowed address reads":                     {local, request{"GET", "192.0.2.8:9465", nil, ""}, passed},
		"an allowed address of IPv6 reads":             {local, request{"GET", "[2001:db8:0::7]:9465", nil, ""}, passed},
		"an allowed name reads":                        {local, request{"GET", "dash.example", nil, ""}, passed},
		"an allowed name, asked with HEAD":             {local, request{"HEAD", "dash.example:80", nil, ""}, passed},
		"an allowed name changes":                      {local, request{"POST", "dash.example", nil, ""}, refused},
		"an allowed name with a tail":                  {local, request{"GET", "dash.example.evil.example", nil, ""}, refused},
		"rebound DNS reads":                            {local, request{"GET", "evil.example:9465", nil, ""}, refused},
		"localhost with a tail":                        {network, request{"GET", "localhost.evil.example", nil, ""}, refused},
		"no Host":                                      {network, request{"GET", "", nil, ""}, refused},
		"a zone is no way around":                      {local, request{"GET", "[fe80::1%25evil.example]:80", nil, ""}, refused},
		"a program in the network that says localhost": {network, request{"POST", "localhost:9466", nil, "192.0.2.1:1234"}, refused},
		"… and its IPv6":                               {network, request{"PATCH", "[::1]:9466", nil, "[2001:db8::7]:1234"}, refused},
		"… and one of no known address":                {network, request{"POST", "localhost", nil, "@"}, refused},
		"… may read":                                   {network, request{"GET", "localhost:9466", nil, "192.0.2.1:1234"}, passed},
		"… may query at length":                        {readOnly, request{"POST", "localhost:9465", nil, "192.0.2.1:1234"}, passed},
		"… may change with auth":                       {auth, request{"POST", "localhost:9466", nil, "192.0.2.1:1234"}, passed},
		"a program here, by IPv6":                      {network, request{"DELETE", "localhost", nil, "[::1]:1234"}, passed},
		"a program here, on a socket of both":          {network, request{"POST", "localhost", nil, "[::ffff:127.0.0.2]:1234"}, passed},
		"with auth, any name":                          {auth, request{"POST", "collector.example", nil, ""}, passed},
		"with auth, another site's page":               {auth, request{"POST", "collector.example", origin("https://evil.example"), ""}, refused},
		"with auth, another site's page read":          {auth, request{"GET", "collector.example", origin("https://evil.example"), ""}, passed},
	} {
		status, reason := ask(t, test.guard, test.request)
		assert.Equal(t, test.want, status, "%s: %s", name, reason)
		assert.Equal(t, test.want == refused, reason != "", name)
	}
}

func TestGuard_SaysWhatToDo(t *testing.T) {
	_, reason := ask(t, Guard{LoopbackOnly: true}, request{"GET", "dash.example", nil, ""})
	assert.Contains(t, reason, "allow this host")
	_, reason = ask(t, Guard{}, request{"GET", "dash.example", nil, ""})
	assert.Contains(t, reason, "configure auth")
	assert.NotContains(t, reason, "allow")
}

func TestGuard_SaysWhereAChangeComesFrom(t *testing.T) {
	_, reason := ask(t, Guard{}, request{"POST", "localhost", nil, "172.17.0.1:54321"})
	assert.Contains(t, reason, "comes from 172.17.0.1:54321")
	assert.Contains(t, reason, "inside the container if there is one, or configure auth")
}

// Who may use a Unix socket is said by its file.
func TestGuard_AUnixSocketIsHere(t *testing.T) {
	ctx := context.WithValue(t.Context(), http.LocalAddrContextKey, &net.UnixAddr{Name: "/run/collector", Net: "unix"})
	r := httptest.NewRequestWithContext(ctx, "POST", "http://localhost/", http.NoBody)
	r.RemoteAddr = "@"
	w := httptest.NewRecorder()
	Guard{}.Protect(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })).ServeHTTP(w, r)
	assert.Equal(t, http.StatusNoContent, w.Code)
}

// A Host header is anything that a client likes to send.
func FuzzGuard_UnknownNamesAreRefused(f *testing.F) {
	for _, s := range []string{"localhost", "[::1]:80", "evil.example", "127.0.0.1.evil.example", "::1]", "", "0x7f.1", "localhost:", "[localhost]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		name := canonical(header)
		if _, loopback := host(name); loopback {
			return
		}
		status, _ := ask(t, Guard{LoopbackOnly: true}, request{"GET", header, nil, ""})
		assert.Equal(t, http.StatusForbidden, status, header)
	})
}
