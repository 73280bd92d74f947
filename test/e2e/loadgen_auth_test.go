// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/scriptedserver"
)

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func hostIs(host string) func(*http.Request) { return func(r *http.Request) { r.Host = host } }

// With an authenticator nothing is answered without its token, and with it any Host
// is taken, but still no page of another site.
func TestLoad_NeedsTheTokenOfAnAuthenticator(t *testing.T) {
	t.Parallel()
	s := llamatest.Start(t, llamatest.Options{})
	g := generateIn(t, nil, s.URL(), "      few: {rate: 20, duration: 500ms, max_tokens: {min: 5, max: 5}}", `
extensions:
  bearertokenauth: {token: sesame}
  loadgen: {auth: {authenticator: bearertokenauth}}
service: {extensions: [bearertokenauth, loadgen]}
`)
	start := `{"profile": "few"}`
	token := header("Authorization", "Bearer sesame")
	for name, edit := range map[string][]func(*http.Request){
		"no token":      nil,
		"another token": {header("Authorization", "Bearer tahini")},
		"another way":   {header("Authorization", "Basic c2VzYW1lOg==")},
		"only the name": {header("Authorization", "Bearer")},
	} {
		for _, q := range [][3]string{{"POST", "/api/v1/runs", start}, {"GET", "/api/v1/runs"}, {"GET", "/api/v1/runs/none/events"}, {"GET", "/openapi.yaml"}} {
			status, answer := g.do(q[0], q[1], q[2], edit...)
			assert.Equal(t, http.StatusUnauthorized, status, "%s: %s %s: %s", name, q[0], q[1], answer)
		}
	}
	status, answer := g.do("POST", "/api/v1/runs", start, token, header("Origin", "https://evil.example"))
	assert.Equal(t, http.StatusForbidden, status, "%s", answer)
	var none struct{ Runs []loadRun }
	g.ask(http.StatusOK, "GET", "/api/v1/runs", "", &none, token)
	assert.Empty(t, none.Runs, "nothing has been started")

	var run loadRun
	g.ask(http.StatusCreated, "POST", "/api/v1/runs", start, &run, token, hostIs("collector.example"))
	g.eventually(func() bool {
		g.ask(http.StatusOK, "GET", "/api/v1/runs/"+run.ID, "", &run, token)
		return over(run)
	}, "the run ends")
	assert.Equal(t, 10, run.Requests.OK)
	assert.False(t, g.Holds("sesame"))
	assert.NotContains(t, g.Log(), "sesame")
}

// Without an authenticator the API may be read at an address of the network, but
// nothing may be changed there. Names are refused, since any page can have one that
// leads here.
func TestLoad_OnlyThisHostMayChangeAnythingWithoutAnAuthenticator(t *testing.T) {
	t.Parallel()
	s := scriptedserver.Start(t, scriptedserver.Always(scriptedserver.JSON(http.StatusOK, "{}")))
	port := freeport.For(t)
	g := generateIn(t, nil, s.URL, "      steady:", fmt.Sprintf("extensions: {loadgen: {endpoint: \"0.0.0.0:%d\"}}", port))
	local := fmt.Sprintf("http://127.0.0.1:%d", port)
	network := local
	for _, a := range addresses(t) {
		if ip := a.To4(); ip != nil && !ip.IsLoopback() {
			network = fmt.Sprintf("http://%s:%d", ip, port)
		}
	}
	nothing := `{"profile": "none"}` // 404 where it comes through
	for name, test := range map[string]struct {
		api, method string
		edit        []func(*http.Request)
		want        int
	}{
		"a program here":             {local, "POST", nil, http.StatusNotFound},
		"a page of this server":      {local, "POST", []func(*http.Request){header("Origin", local), header("Sec-Fetch-Site", "same-origin")}, http.StatusNotFound},
		"a page of another port":     {local, "POST", []func(*http.Request){header("Origin", "http://127.0.0.1:1"), header("Sec-Fetch-Site", "same-site")}, http.StatusForbidden},
		"a page elsewhere":           {local, "POST", []func(*http.Request){header("Origin", "https://evil.example"), header("Sec-Fetch-Site", "cross-site")}, http.StatusForbidden},
		"a page elsewhere, rebound":  {local, "POST", []func(*http.Request){hostIs("evil.example"), header("Origin", "http://evil.example"), header("Sec-Fetch-Site", "same-origin")}, http.StatusForbidden},
		"its eyes":                   {local, "GET", []func(*http.Request){hostIs("evil.example")}, http.StatusForbidden},
		"the network looks":          {network, "GET", nil, http.StatusOK},
		"the network changes things": {network, "POST", []func(*http.Request){hostIs("192.0.2.7")}, http.StatusForbidden},
	} {
		g.api = test.api
		status, answer := g.do(test.method, "/api/v1/runs", nothing, test.edit...)
		assert.Equal(t, test.want, status, "%s: %s", name, answer)
		if status == http.StatusForbidden {
			var problem struct{ Error string }
			require.NoError(t, json.Unmarshal(answer, &problem), name)
			assert.NotEmpty(t, problem.Error, name)
		}
	}
	if network != local {
		g.api = network
		status, answer := g.do("POST", "/api/v1/runs", nothing)
		assert.Equal(t, http.StatusForbidden, status, "%s", answer)
	}
}

// addresses returns those of this machine.
func addresses(t *testing.T) (ips []net.IP) {
	t.Helper()
	all, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			ips = append(ips, n.IP)
		}
	}
	return ips
}
