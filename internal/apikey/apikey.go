// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package apikey checks the API keys that users configure.
package apikey // import "github.com/llamatelemetry/otelcol-llamacpp/internal/apikey"

import (
	"errors"
	"fmt"
	"strings"
)

// Check returns what is wrong with an API key, without repeating it.
func Check(key string) error {
	word, _, _ := strings.Cut(strings.TrimSpace(key), " ")
	switch {
	case strings.ContainsAny(key, "\r\n"):
		return errors.New("has a line break in it; cut it off where the key is read from")
	case strings.TrimSpace(key) != key:
		return errors.New("has a space before or after it; cut it off where the key is read from")
	case strings.EqualFold(word, "Bearer"):
		return fmt.Errorf("begins with %s, which is sent with every key; leave that word out", word)
	}
	return nil
}
