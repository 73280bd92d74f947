// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamasim

import "testing"

// Start runs a server on a free port until the end of the test.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	s := New(o)
	tb.Cleanup(s.Close)
	if _, err := s.Start("127.0.0.1:0"); err != nil {
		tb.Fatal(err)
	}
	return s
}
