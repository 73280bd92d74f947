// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// What keys do, declared once: for the page, and for the list of them.

import { html } from "#page/vendor/lit-html.js";

/**
 * @typedef {object} Key
 * @property {string} key as KeyboardEvent.key has it
 * @property {string} help
 * @property {() => void} act
 * @property {string} [shown] how it is written, where that differs
 */

/** Elements in which letters are typed. */
const TYPED = new Set(["INPUT", "SELECT", "TEXTAREA"]);

/**
 * The key that the event is for, if any.
 * @param {Key[]} keys
 * @param {{key: string, ctrlKey: boolean, metaKey: boolean, altKey: boolean, target: unknown}} event
 */
export function keyOf(keys, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  const target = /** @type {{tagName?: string} | null} */ (event.target);
  const tag = target?.tagName ?? "";
  if (TYPED.has(tag)) return null;
  // Space presses a button, and opens a summary.
  if (event.key === " " && (tag === "BUTTON" || tag === "SUMMARY" || tag === "A")) return null;
  return keys.find((k) => k.key === event.key) ?? null;
}

/** @param {Key[]} keys */
export function keysView(keys) {
  const own = [
    ["← →", "on a chart: move the cursor"],
    ["Shift ← →", "on a chart: select, then Enter zooms in"],
  ];
  return html`<dl class="keys">${[...keys.map((k) => [k.shown ?? k.key, k.help]), ...own].map(
    ([k, help]) => html`<dt><kbd>${k}</kbd></dt><dd>${help}</dd>`,
  )}</dl>`;
}
