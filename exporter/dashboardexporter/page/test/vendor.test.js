// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

const here = (/** @type {string} */ path) => readFileSync(new URL(path, import.meta.url));

/** Files in www/vendor, and what they are in their packages. */
const FILES = {
  "uPlot.iife.min.js": "uplot/dist/uPlot.iife.min.js",
  "uPlot.min.css": "uplot/dist/uPlot.min.css",
  "uPlot.LICENSE": "uplot/LICENSE",
  "lit-html.js": "lit-html/lit-html.js",
  "lit-html.LICENSE": "lit-html/LICENSE",
};

test("third-party files are the packages' own, to the byte", () => {
  for (const [ours, theirs] of Object.entries(FILES)) {
    const same = here(`../www/vendor/${ours}`).equals(here(`../node_modules/${theirs}`));
    assert.ok(same, `www/vendor/${ours} differs from node_modules/${theirs}: copy it from there`);
  }
  assert.deepEqual(readdirSync(new URL("../www/vendor", import.meta.url)).sort(), Object.keys(FILES).sort());
});

test("the packages have the versions that package.json asks for", () => {
  const want = JSON.parse(String(here("../package.json"))).devDependencies;
  for (const name of Object.keys(want)) {
    assert.equal(JSON.parse(String(here(`../node_modules/${name}/package.json`))).version, want[name], name);
  }
});

test("the lock file names no host of packages", () => {
  assert.doesNotMatch(String(here("../package-lock.json")), /"resolved"/);
});
