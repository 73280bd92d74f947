// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package packaging tests what is released: archives, bill of materials and the
// Debian package, which is installed, used, upgraded and removed in a clean
// Debian with a real systemd.
package packaging
