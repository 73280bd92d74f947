// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package realgpu tests the receiver on this machine's own NVIDIA driver, against
// nvidia-smi. `make test-gpu` runs its tests where there is a GPU.
package realgpu
