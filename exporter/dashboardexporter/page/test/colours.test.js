// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { colour, contrast, EIGHT, linear, SCENE, SHADES, SIX } from "../www/colours.js";

/** @type {Theme[]} */
const THEMES = ["light", "dark"];

/** Of Machado, Oliveira and Fernandes 2009, severity 1, in linear light. @type {Record<string, number[][]>} */
const VISION = {
  normal: [
    [1, 0, 0],
    [0, 1, 0],
    [0, 0, 1],
  ],
  protan: [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
  deutan: [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
  ],
  tritan: [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.3039],
  ],
};

/** @param {string} hex @param {number[][]} matrix */
function oklab(hex, matrix) {
  const seen = linear(hex);
  const [r, g, b] = matrix.map((row) =>
    Math.min(1, Math.max(0, row[0] * seen[0] + row[1] * seen[1] + row[2] * seen[2])),
  );
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

/** The smallest distance of two colours, times 100. @param {string[]} palette @param {number[][]} matrix */
function nearest(palette, matrix) {
  const labs = palette.map((hex) => oklab(hex, matrix));
  let least = Number.POSITIVE_INFINITY;
  for (const [i, a] of labs.entries()) {
    for (const b of labs.slice(i + 1)) least = Math.min(least, 100 * Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]));
  }
  return least;
}

test("colours of series stand out from the ground", () => {
  for (const theme of THEMES) {
    for (const hex of [...SIX[theme], ...EIGHT[theme], ...SHADES[theme], SCENE[theme].limit]) {
      assert.ok(contrast(hex, SCENE[theme].ground) >= 3, `${hex} in ${theme}: ${contrast(hex, SCENE[theme].ground)}`);
    }
  }
});

test("colours of series can be told apart with every kind of colour vision", () => {
  for (const theme of THEMES) {
    for (const [kind, matrix] of Object.entries(VISION)) {
      const six = nearest(SIX[theme], matrix);
      const eight = nearest(EIGHT[theme], matrix);
      assert.ok(six >= 11, `six in ${theme}, ${kind}: ${six.toFixed(1)}`);
      assert.ok(eight >= 9, `eight in ${theme}, ${kind}: ${eight.toFixed(1)}`);
    }
  }
});

test("percentiles go from the ground to the ink", () => {
  for (const theme of THEMES) {
    const steps = SHADES[theme].map((hex) => contrast(hex, SCENE[theme].ground));
    assert.deepEqual(
      steps,
      steps.toSorted((a, b) => a - b),
    );
    for (const matrix of Object.values(VISION)) assert.ok(nearest(SHADES[theme], matrix) >= 11);
  }
});

test("seven series have the palette of eight", () => {
  assert.equal(colour("light", 0, 6), SIX.light[0]);
  assert.equal(colour("light", 0, 7), EIGHT.light[0]);
  assert.equal(colour("dark", 9, 10), EIGHT.dark[1]);
});

test("texts of the page can be read", () => {
  const css = readFileSync(new URL("../www/page.css", import.meta.url), "utf8");
  for (const [theme, block] of [
    ["light", /:root \{([^}]*)\}/],
    ["dark", /:root\[data-theme="dark"\] \{([^}]*)\}/],
  ]) {
    const text = /** @type {RegExp} */ (block).exec(css)?.[1] ?? "";
    /** @type {Record<string, string>} */
    const v = Object.fromEntries([...text.matchAll(/--([\w-]+): (#\w{6})/g)].map((m) => [m[1], m[2]]));
    assert.equal(v.ground, SCENE[/** @type {Theme} */ (theme)].ground);
    for (const ground of ["page", "ground", "raised"]) {
      for (const ink of ["ink", "muted", "accent", "ok", "warning", "critical", "load"]) {
        assert.ok(
          contrast(v[ink], v[ground]) >= 4.5,
          `${ink} on ${ground} in ${theme}: ${contrast(v[ink], v[ground])}`,
        );
      }
    }
    assert.ok(contrast(v.accent, v["accent-ground"]) >= 4.5, theme.toString());
    assert.ok(contrast(v.critical, v["critical-ground"]) >= 4.5, theme.toString());
  }
});
