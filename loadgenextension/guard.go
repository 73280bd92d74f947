// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenextension // import "github.com/llamatelemetry/otelcol-llamacpp/loadgenextension"

import (
	"net/http"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/webguard"
)

// guard prevents web pages of other sites from starting load or reading results.
func guard(authenticated bool, next http.Handler) http.Handler {
	return webguard.Guard{Authenticated: authenticated, Refuse: forbid}.Protect(next)
}

func forbid(w http.ResponseWriter, reason string) { fail(w, http.StatusForbidden, reason) }
