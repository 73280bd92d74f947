// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package eventserver_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/eventserver"
)

func TestMain(m *testing.M) {
	eventserver.Main()
	m.Run()
}

func TestServer_SendsTheEventsThatAreAskedForAndRecordsThem(t *testing.T) {
	s, err := eventserver.Start()
	require.NoError(t, err)
	for _, interval := range []time.Duration{0, time.Millisecond} {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/chat/completions", strings.NewReader("{}"))
		require.NoError(t, err)
		q.Header = eventserver.Header(3, interval)
		r, err := http.DefaultClient.Do(q)
		require.NoError(t, err)
		body, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		require.NoError(t, r.Body.Close())
		assert.Equal(t, 3, strings.Count(string(body), `"content":" word"`))
		assert.True(t, strings.HasSuffix(string(body), "data: [DONE]\n\n"))
	}
	r, err := s.Record(t.Context())
	require.NoError(t, err)
	require.Len(t, r.Arrivals, 2)
	assert.Less(t, r.Arrivals[0], r.Arrivals[1])
	assert.Equal(t, int64(6), r.Events)

	r, err = s.Record(t.Context())
	require.NoError(t, err)
	assert.Zero(t, r.Events, "each record begins where the last one ended")
	require.NoError(t, s.Close())
}

func TestServer_ClosesConnectionsAsLlamaServerDoesIfAskedTo(t *testing.T) {
	s, err := eventserver.Start()
	require.NoError(t, err)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.URL, "http://"))
	require.NoError(t, err)
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/chat/completions", strings.NewReader("{}"))
	require.NoError(t, err)
	q.Header = eventserver.Closing(eventserver.Header(1, 0))
	require.NoError(t, q.Write(conn))
	all, err := io.ReadAll(conn) // until the server closes
	require.NoError(t, err)
	assert.Contains(t, string(all), "\r\nServer: llama.cpp\r\n")
	assert.NotContains(t, string(all), "Connection: close", "it does not say so")
	require.NoError(t, conn.Close())
	require.NoError(t, s.Close())
}
