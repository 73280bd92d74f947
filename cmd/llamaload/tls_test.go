// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
)

// Errors of a connection name the flag that mends them, and the flag does.
func TestRun_FlagsMendWhatIsWrongWithTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"choices":[{"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`))
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	pair := server.TLS.Certificates[0]
	private, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	require.NoError(t, err)
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	certificate, key := write("cert.pem", "CERTIFICATE", pair.Certificate[0]), write("key.pem", "PRIVATE KEY", private)
	run := func(flags ...string) (code int, stdout, stderr string) {
		return llamaload(t, append([]string{"run", "--url", server.URL, "--count", "1", "--no-stream", "--duration", "1s"}, flags...)...)
	}

	_, stdout, _ := run()
	assert.Contains(t, stdout, "set --ca-file to the certificate of the authority")
	_, stdout, _ = run("--ca-file", certificate)
	assert.Contains(t, stdout, "set --cert-file and --key-file to a certificate that the server accepts")
	code, stdout, stderr := run("--ca-file", certificate, "--cert-file", certificate, "--key-file", key)
	assert.Equal(t, exitDone, code, stdout+stderr)
	assert.Contains(t, stdout, "1 ok")

	code, _, stderr = run("--cert-file", certificate)
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, stderr, "--cert-file and --key-file: ")
}

func TestRun_CuresOfTheServersCountersNameFlagsToo(t *testing.T) {
	_, url := simulator(t, llamasim.Options{})
	plain := strings.Replace(url, "http", "https", 1)
	_, stdout, _ := llamaload(t, "run", "--url", plain, "--count", "1", "--duration", "1s")
	assert.Equal(t, 2, strings.Count(stdout, "it speaks no TLS: set --url to "+url), stdout)
}
