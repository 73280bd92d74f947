// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package freeport finds TCP ports that nobody listens on.
package freeport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
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

// The ports for tests are below those that systems give to outgoing connections,
// of which a browser or a load test makes many: one of them would be in the way.
const first, last = 20_000, 32_000

// given has the ports that For has returned.
var given sync.Map

// For returns a free port for a test.
func For(tb testing.TB) int {
	tb.Helper()
	for range last - first {
		port, err := Find(first + rand.IntN(last-first))
		if err != nil {
			tb.Fatal(err)
		}
		if port >= last { // that one is taken
			continue
		}
		if _, again := given.LoadOrStore(port, true); !again {
			return port
		}
	}
	tb.Fatalf("no free port from %d to %d", first, last)
	return 0
}
