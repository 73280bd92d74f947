// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

import { svg } from "#page/vendor/lit-html.js";

/**
 * A line without axes, broken where there is nothing. It ends at the right: what
 * is younger than the window does not fill it.
 * @param {Values} values
 * @param {number} width
 * @param {number} height
 */
export function path(values, width, height) {
  const top = Math.max(...values.map((v) => v ?? 0), 0) || 1;
  const x = (/** @type {number} */ i) => (i / Math.max(1, values.length - 1)) * width;
  const y = (/** @type {number} */ v) => height - 1 - (v / top) * (height - 2);
  let d = "";
  for (const [i, v] of values.entries()) {
    if (v === null) continue;
    d += `${values[i - 1] == null ? "M" : "L"}${x(i).toFixed(1)} ${y(v).toFixed(1)}`;
    if (values[i - 1] == null && values[i + 1] == null) d += "h1";
  }
  return d;
}

/** @param {Values} values @param {number} width @param {number} height */
export const sparkline = (values, width, height) =>
  svg`<svg class="spark" viewBox="0 0 ${width} ${height}" preserveAspectRatio="none" aria-hidden="true">
    <path d=${path(values, width, height)} vector-effect="non-scaling-stroke"></path></svg>`;
