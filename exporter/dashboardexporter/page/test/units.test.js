// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { test } from "node:test";
import { axisLabels, brief, clock, digits, duration, moment, text, windowName } from "../www/units.js";

test("numbers have three significant digits and no exponent", () => {
  /** @type {[number, string][]} */
  const cases = [
    [0, "0"],
    [187.2, "187"],
    [34.04, "34.0"],
    [3.2, "3.20"],
    [0.47, "0.470"],
    [0.0123, "0.012"],
    [0.0001, "0"],
    [9.996, "10.0"],
    [99.96, "100"],
    [999.4, "999"],
    [123456, "123456"],
    [-3.2, "-3.20"],
  ];
  for (const [value, want] of cases) assert.equal(digits(value), want, String(value));
});

test("numbers have their unit, with SI's prefixes where these belong", () => {
  /** @type {[number | null, string, string][]} */
  const cases = [
    [187.2, "tokens/s", "187 tok/s"],
    [1960, "tokens/s", "1.96 k tok/s"],
    [0.034, "s/token", "34.0 ms/tok"],
    [0.47, "s", "470 ms"],
    [3.2, "s", "3.20 s"],
    [0.0004, "s", "400 µs"],
    [125, "s", "2 min 5 s"],
    [0.62, "ratio", "62.0 %"],
    [1, "ratio", "100 %"],
    [17.2e9, "bytes", "17.2 GB"],
    [999.7e6, "bytes", "1.00 GB"],
    [1980e6, "hertz", "1.98 GHz"],
    [210e6, "hertz", "210 MHz"],
    [71, "celsius", "71.0 °C"],
    [212.4, "watts", "212 W"],
    [4, "requests", "4"],
    [2.5, "requests", "2.50"],
    [4, "count", "4"],
    [0, "s", "0 s"],
    [-0.5, "s", "−500 ms"],
    [null, "s", "–"],
    [Number.NaN, "s", "–"],
    [12, "lightyears", "12.0 lightyears"],
  ];
  for (const [value, unit, want] of cases) assert.equal(text(value, unit), want, `${value} ${unit}`);
});

test("below a title a unit is not said again", () => {
  assert.equal(brief(1960, "tokens/s"), "1.96 k");
  assert.equal(brief(187, "tokens/s"), "187");
  assert.equal(brief(0.0296, "s/token"), "29.6 ms");
  assert.equal(brief(17.2e9, "bytes"), "17.2 GB");
  assert.equal(brief(0.5, "ratio"), "50.0 %");
  assert.equal(brief(null, "s"), "–");
});

test("labels of an axis have one prefix and as many decimals as they need", () => {
  assert.deepEqual(axisLabels([0, 5e9, 10e9], "bytes"), ["0", "5 GB", "10 GB"]);
  assert.deepEqual(axisLabels([0, 0.5, 1], "s"), ["0", "0.5 s", "1.0 s"]);
  assert.deepEqual(axisLabels([0, 0.02, 0.04], "s/token"), ["0", "20 ms", "40 ms"]);
  assert.deepEqual(axisLabels([0, 0.25, 0.5], "ratio"), ["0", "25 %", "50 %"]);
  assert.deepEqual(axisLabels([0, 1000, 2000], "tokens/s"), ["0", "1 k", "2 k"]);
  assert.deepEqual(axisLabels([0, 120, 240], "s"), ["0", "2 min", "4 min"]);
  assert.deepEqual(axisLabels([0], "s"), ["0"]);
});

test("durations have their two largest parts", () => {
  assert.equal(duration(0), "0 s");
  assert.equal(duration(59), "59 s");
  assert.equal(duration(3600), "1 h");
  assert.equal(duration(11520), "3 h 12 min");
  assert.equal(duration(90_061), "1 d 1 h");
});

test("a time has its day where that is not today", () => {
  const noon = new Date(2026, 10, 25, 12, 1, 7).getTime();
  assert.equal(clock(noon), "12:01:07");
  assert.equal(moment(noon, noon + 60_000), "12:01:07");
  assert.equal(moment(noon, noon + 86_400_000), "2026-11-25 12:01:07");
});

test("windows are named as their buttons are", () => {
  assert.deepEqual([60, 900, 3600, 86400, 45].map(windowName), ["1m", "15m", "1h", "24h", "45s"]);
});
