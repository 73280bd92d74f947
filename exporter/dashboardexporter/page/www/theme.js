// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Light or dark: as the system has it, unless the person chose.

const KEY = "theme";

/** @returns {Theme} */
export function chosenTheme() {
  /** @type {string | null} */
  let own = null;
  try {
    own = localStorage.getItem(KEY);
  } catch {
    // Files and strict settings have no storage.
  }
  if (own === "light" || own === "dark") return own;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** @param {Theme} theme @returns {Theme} */
export function nextTheme(theme) {
  const next = theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // It holds for this visit.
  }
  return next;
}
