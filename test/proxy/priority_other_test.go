// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package proxy

// setPriority does nothing here.
func setPriority(int, int) error { return nil }
