// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !cgo || !linux

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import "time"

// none stands in where the binding cannot be compiled.
type none struct{}

func newDriver(string) driver { return none{} }

func (none) open(*sessionLog) ([]unit, error, error) {
	return nil, nil, &condition{code: "build", absent: true, text: "this collector was built without cgo, or not for Linux: " +
		"build it for Linux with cgo_enabled: true in the builder's dist section to read NVIDIA GPUs"}
}

func (none) close()                                         {}
func (none) waitEvent(time.Duration) (string, uint64, bool) { return "", 0, false }
func (none) calling() string                                { return "" }
