// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRun_FleetAnswersAndEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"--port", "0", "-fleet", "3", "-load", "2", "-np", "2"}, in, io.Discard)
	}()
	sc := bufio.NewScanner(out)
	for range 3 {
		require.True(t, sc.Scan())
		r, err := http.Get(sc.Text() + "/metrics")
		require.NoError(t, err)
		r.Body.Close()
		assert.Equal(t, 200, r.StatusCode)
	}
	cancel()
	require.NoError(t, <-ended)
}

func TestRun_WritesALog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "llama-server.log")
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"--port", "0", "-load", "1", "-load-max", "5", "-log", path}, in, io.Discard)
	}()
	_, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	// Nobody asks the server meanwhile.
	assert.Eventually(t, func() bool {
		log, err := os.ReadFile(path)
		return err == nil && bytes.Contains(log, []byte("stop processing"))
	}, 20*time.Second, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
	log, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.True(t, bytes.HasSuffix(log, []byte("cleaning up before exit...\n")))
}

func TestRun_SaysWhatIsWrong(t *testing.T) {
	for want, args := range map[string][]string{
		"-build x: use current, old or future":      {"-build", "x"},
		`argument "x" is not a flag: see --help`:    {"x"},
		"need at least 1 server, 1 slot":            {"-fleet", "0"},
		"-log is for one server":                    {"-fleet", "2", "-log", "-"},
		"invalid value \"many\" for flag -parallel": {"-parallel", "many"},
	} {
		assert.ErrorContains(t, run(context.Background(), args, io.Discard, io.Discard), want)
	}
	var help bytes.Buffer
	assert.ErrorIs(t, run(context.Background(), []string{"--help"}, io.Discard, &help), flag.ErrHelp)
	assert.Contains(t, help.String(), "1,000 busy servers")
}
