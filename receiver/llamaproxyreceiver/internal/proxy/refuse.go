// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxy // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver/internal/proxy"

import (
	"encoding/json"
	"net/http"
)

// refuse answers in the proxy's own name, in the form of llama-server's errors.
func refuse(w http.ResponseWriter, status int, reason string) {
	type body struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Type    string `json:"type"`
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]body{"error": {status, "llamaproxy: " + reason, "proxy_error"}}) // the client is gone
}
