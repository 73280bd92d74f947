// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// One animation frame draws everything that was asked for since the last.

/** @type {Set<() => void>} */
const due = new Set();
let asked = false;

/** Runs the function in the next frame, once. @param {() => void} draw */
export function inFrame(draw) {
  due.add(draw);
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    const now = [...due];
    due.clear();
    for (const f of now) f();
  });
}
