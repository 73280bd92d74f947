// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaproxyreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamaproxyreceiver"

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
)

const (
	noKey     = "none"  // the client has sent no API key
	otherName = "other" // it has no name, or there are too many
)

// clients names clients by their API keys, of which only hashes are kept: comparing
// these takes as long whatever a client sends.
type clients struct {
	names  map[[sha256.Size]byte]string
	secret []byte
}

// newClients returns nil where clients are not told apart.
func newClients(c *ClientsConfig) *clients {
	if c == nil {
		return nil
	}
	named := &clients{names: map[[sha256.Size]byte]string{}, secret: []byte(c.HashSecret)}
	for name, key := range c.Names {
		named.names[sha256.Sum256([]byte(key))] = name
	}
	return named
}

// name returns what a client is called; "" where clients are not told apart.
func (c *clients) name(h http.Header) string {
	if c == nil {
		return ""
	}
	key := keyOf(h)
	if key == "" {
		return noKey
	}
	if name, ok := c.names[sha256.Sum256([]byte(key))]; ok {
		return name
	}
	if len(c.secret) == 0 {
		return otherName
	}
	mac := hmac.New(sha256.New, c.secret)
	mac.Write([]byte(key))
	return hex.EncodeToString(mac.Sum(nil)[:6])
}

// keyOf returns the API key of a request, in the forms that llama-server takes.
func keyOf(h http.Header) string {
	if v := h.Get("Authorization"); v != "" {
		return strings.TrimPrefix(v, "Bearer ")
	}
	return h.Get("X-Api-Key")
}
