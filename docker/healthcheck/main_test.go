// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAddress_IsWhereTheCollectorListens(t *testing.T) {
	for want, setting := range map[string][2]string{
		"localhost:13133":    {"", ""},
		"localhost:13134":    {"0.0.0.0", "13134"},
		"localhost:13135":    {"::", "13135"},
		"192.0.2.7:13133":    {"192.0.2.7", ""},
		"collector.lan:1000": {"collector.lan", "1000"},
	} {
		assert.Equal(t, want, address(setting[0], setting[1]))
	}
}

func TestCheck_PassesOnlyWhatIsHealthy(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "/", r.URL.Path)
		w.WriteHeader(status)
	}))
	defer server.Close()
	address := server.Listener.Addr().String()

	line, err := check(address, time.Minute)
	require.NoError(t, err)
	assert.Contains(t, line, "200 OK")

	status = http.StatusServiceUnavailable
	_, err = check(address, time.Minute)
	require.ErrorContains(t, err, "503 Service Unavailable")

	server.Close()
	_, err = check(address, time.Minute)
	assert.ErrorContains(t, err, "refused")
}

func TestCheck_DoesNotWaitForEver(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()
	_, err = check(silent.Addr().String(), 50*time.Millisecond)
	assert.ErrorContains(t, err, "timeout")
}

func TestCheck_WantsHTTP(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = other.Close() }()
	go func() {
		connection, err := other.Accept()
		if err == nil {
			_, _ = connection.Write([]byte("SSH-2.0-200\r\n"))
		}
	}()
	_, err = check(other.Addr().String(), time.Minute)
	assert.ErrorContains(t, err, "SSH-2.0-200")
}
