// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// uPlot comes as a script that sets a global; modules get it from here.

export const uPlot = globalThis.uPlot;
