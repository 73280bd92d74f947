// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamasim

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fetch gives the status, what came of the body, and the error.
func fetch(t *testing.T, url string, timeout time.Duration) (int, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	r, err := client.Do(q)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

// assertNoConnection accepts a reset too: the kernel may give one to whoever
// connects while the port is being closed.
func assertNoConnection(t *testing.T, err error) {
	t.Helper()
	var op *net.OpError
	if assert.ErrorAs(t, err, &op) {
		assert.Equal(t, "dial", op.Op)
	}
}

func TestFault_EachMisbehavesAndEnds(t *testing.T) {
	s, url := start(t, Options{})
	_, whole, err := fetch(t, url+"/metrics", 10*time.Second)
	require.NoError(t, err)

	for name, c := range map[string]struct {
		fault Fault
		check func(t *testing.T, status int, body string, err error)
	}{
		"refuse": {Refuse, func(t *testing.T, _ int, _ string, err error) {
			assertNoConnection(t, err)
		}},
		"hang at connect": {HangConnect, func(t *testing.T, _ int, _ string, err error) {
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		}},
		"hang in body": {HangBody, func(t *testing.T, status int, body string, err error) {
			assert.Equal(t, 200, status)
			assert.Len(t, body, len(whole)/2)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		}},
		"drip": {Drip(20 * time.Millisecond), func(t *testing.T, _ int, body string, err error) {
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.NotEmpty(t, body)
			assert.Less(t, len(body), 100)
		}},
		"close early": {CloseEarly, func(t *testing.T, _ int, body string, err error) {
			assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
			assert.Len(t, body, len(whole)/2)
		}},
		"HTML": {HTML, func(t *testing.T, status int, body string, err error) {
			require.NoError(t, err)
			assert.Equal(t, 200, status)
			assert.Contains(t, body, "<html>")
		}},
		"garbage": {Garbage, func(t *testing.T, _ int, body string, err error) {
			require.NoError(t, err)
			assert.Equal(t, "llama", sampleOf(body, "n_decode_total"))
		}},
		"redirect": {Redirect("http://127.0.0.1:1/"), func(t *testing.T, status int, _ string, err error) {
			require.NoError(t, err)
			assert.Equal(t, 302, status)
		}},
		"status": {Status(502), func(t *testing.T, status int, _ string, err error) {
			require.NoError(t, err)
			assert.Equal(t, 502, status)
		}},
		"delay": {Delay(time.Minute), func(t *testing.T, _ int, _ string, err error) {
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s.SetFault("", c.fault)
			status, body, err := fetch(t, url+"/metrics", 400*time.Millisecond)
			c.check(t, status, body, err)
			s.ClearFault("")
			status, body, err = fetch(t, url+"/metrics", 10*time.Second)
			require.NoError(t, err)
			assert.Equal(t, 200, status)
			assert.Equal(t, strings.Count(whole, "\n"), strings.Count(body, "\n"))
		})
	}
}

func TestFault_HugeIsAsLongAsAsked(t *testing.T) {
	s, url := start(t, Options{})
	s.SetFault("/metrics", Huge(3))
	_, body, err := fetch(t, url+"/metrics", 10*time.Second)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, len(body), 3<<20)
}

func TestFault_OfOnePathLeavesTheOthers(t *testing.T) {
	s, url := start(t, Options{Prefix: "/p"})
	s.SetFault("/slots", Status(500))
	status, _ := get(t, url+"/slots")
	assert.Equal(t, 500, status)
	status, _ = get(t, url+"/metrics")
	assert.Equal(t, 200, status)
}

func TestRestartAfter_RefusesMeanwhile(t *testing.T) {
	s, url := start(t, Options{})
	s.RestartAfter(200 * time.Millisecond)
	_, _, err := fetch(t, url+"/health", time.Second)
	assertNoConnection(t, err)
	require.Eventually(t, func() bool {
		status, _, err := fetch(t, url+"/health", time.Second)
		return err == nil && status == 200
	}, 10*time.Second, 20*time.Millisecond)
}

func TestFault_HangConnectHangsOpenConnectionsToo(t *testing.T) {
	s, url := start(t, Options{})
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	kept := &http.Client{Transport: tr, Timeout: 300 * time.Millisecond}
	r, err := kept.Get(url + "/health")
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, r.Body)
	require.NoError(t, err)
	r.Body.Close()
	s.SetFault("", HangConnect)
	r, err = kept.Get(url + "/health")
	if err == nil {
		r.Body.Close()
	}
	assert.ErrorContains(t, err, "Timeout exceeded")
}
