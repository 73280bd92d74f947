// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package freeport finds TCP ports that nobody listens on.
package freeport

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"testing"
)

// Find returns the preferred port where it is free on the loopback address, and
// any other free one where it is not. 0 prefers none. Another program may take
// the port before it is used.
func Find(preferred int) (int, error) {
	var config net.ListenConfig
	listen := func(port int) (net.Listener, error) {
		return config.Listen(context.Background(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	l, err := listen(preferred)
	if err != nil && preferred != 0 {
		l, err = listen(0)
	}
	if err != nil {
		return 0, fmt.Errorf("free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// For returns a free port for a test.
func For(tb testing.TB) int {
	tb.Helper()
	port, err := Find(0)
	if err != nil {
		tb.Fatal(err)
	}
	return port
}
