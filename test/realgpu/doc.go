// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package realgpu runs the receiver on this machine's own NVIDIA driver and
// compares with nvidia-smi. `make test-gpu` builds its test, where there is a GPU.
package realgpu
