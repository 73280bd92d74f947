// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Colours of series. A category has the same hue in both themes; all can be told
// apart with every kind of colour vision, which a test computes.

/** @type {Record<Theme, string[]>} */
export const SIX = {
  light: ["#3a95b9", "#cb7d34", "#824aca", "#cc3466", "#3f560c", "#7e1b6d"],
  dark: ["#2f8baf", "#df8f48", "#af7afe", "#d63f6f", "#b5e94c", "#f5b2e3"],
};

/** @type {Record<Theme, string[]>} */
export const EIGHT = {
  light: ["#900d2a", "#b74506", "#929a2d", "#2a805d", "#229b9f", "#3934b1", "#8f59c1", "#773e6a"],
  dark: ["#da4053", "#f57e4d", "#d4e11f", "#79cca4", "#4eeef3", "#656eef", "#c791fd", "#af5f9e"],
};

/**
 * Of percentiles, which are ordered: one hue, the tail the strongest against the
 * ground.
 * @type {Record<Theme, string[]>}
 */
export const SHADES = {
  light: ["#3a95b9", "#1d6886", "#083b50"],
  dark: ["#2f8baf", "#6fc0e0", "#cdeeff"],
};

/**
 * What is not a series.
 * @type {Record<Theme, {ground: string, ink: string, muted: string, grid: string, limit: string, warning: string,
 *   critical: string, prompt: string, generating: string, mark: Record<string, string>}>}
 */
export const SCENE = {
  light: {
    ground: "#ffffff",
    ink: "#1b1f24",
    muted: "#5b636d",
    grid: "#e7eaee",
    limit: "#6b7480",
    warning: "#b25a00",
    critical: "#c1121f",
    prompt: "#b9dceb",
    generating: "#2b86ab",
    mark: { restart: "#c1121f", sleep: "#5b636d", load: "#824aca", throttle: "#b25a00", alert: "#c1121f" },
  },
  dark: {
    ground: "#171a1f",
    ink: "#e8eaed",
    muted: "#9aa3ad",
    grid: "#272c33",
    limit: "#8d97a3",
    warning: "#f0a040",
    critical: "#ff6b6b",
    prompt: "#1f4d61",
    generating: "#3fa5cc",
    mark: { restart: "#ff6b6b", sleep: "#9aa3ad", load: "#af7afe", throttle: "#f0a040", alert: "#ff6b6b" },
  },
};

/**
 * The colour of series i of n.
 * @param {Theme} theme
 * @param {number} i
 * @param {number} n
 */
export function colour(theme, i, n) {
  const palette = n > SIX[theme].length ? EIGHT[theme] : SIX[theme];
  return palette[i % palette.length];
}

/** The colour with a share of its strength, for areas. @param {string} hex @param {number} alpha */
export const faint = (hex, alpha) =>
  hex +
  Math.round(alpha * 255)
    .toString(16)
    .padStart(2, "0");

/** @param {string} hex @returns {[number, number, number]} linear light */
export function linear(hex) {
  const part = (/** @type {number} */ at) => {
    const c = Number.parseInt(hex.slice(at, at + 2), 16) / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  };
  return [part(1), part(3), part(5)];
}

/** As WCAG 2 defines it. @param {string} a @param {string} b */
export function contrast(a, b) {
  const luminance = (/** @type {string} */ hex) => {
    const [r, g, blue] = linear(hex);
    return 0.2126 * r + 0.7152 * g + 0.0722 * blue;
  };
  const [x, y] = [luminance(a), luminance(b)];
  return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
}
