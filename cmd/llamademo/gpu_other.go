// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import "errors"

func startGPU() (variable string, stop func(), err error) {
	return "", nil, errors.New("DEMO_GPU: NVIDIA's driver, and so a simulated one, is for Linux: unset the variable")
}
