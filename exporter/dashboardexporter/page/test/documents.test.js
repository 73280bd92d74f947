// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { test } from "node:test";

// Modules that draw find a document only in a browser.
Object.assign(globalThis, { document: { createComment: () => ({}), createTreeWalker: () => ({}) } });

const { documentView, kindOf, nameOfFigure, titleOf, unitOf } = await import("../www/documents.js");
const { reportView } = await import("../www/report.js");

/**
 * The words of a template, without tags.
 * @param {any} v
 * @returns {string}
 */
function words(v) {
  if (v === null || v === undefined || typeof v === "symbol" || typeof v === "function") return "";
  if (Array.isArray(v)) return v.map(words).join(" ");
  if (!v.strings) return String(v);
  const all = v.strings.map((/** @type {string} */ s, /** @type {number} */ i) => s + words(v.values[i]));
  return all
    .join("")
    .replace(/<[^>]*>/g, " ")
    .replace(/\s+/g, " ");
}

const histogram = (/** @type {number} */ p50) => ({
  p50,
  p95: 2 * p50,
  p99: 3 * p50,
  max: 4 * p50,
  mean: p50,
  count: 20,
});

/** As `llamaload run --json` writes it, in part. @param {number} ttft */
const report = (ttft) => ({
  generator: { limited: false, note: "generator kept up" },
  run: { url: "http://server:8080", started: "2026-11-25T22:00:00Z", schedule: "2 requests/s", ended: "done" },
  workload: { endpoint: "chat", prompts: "10 built-in prompts" },
  requests: { due: 20, ok: 20, error: 0, cancelled: 0, dropped: 0 },
  latency: { ttft: histogram(ttft), tpot: histogram(0.02), e2e: histogram(1) },
  rates: { requests: 2, output_tokens: 187, input_tokens: 50 },
  tokens: { cache_hit_rate: 0.62 },
});

const estimates = (/** @type {number} */ ttft) => ({
  requests_per_second: { runs: 2, mean: 4, low: 3.8, high: 4.2 },
  "p95(ttft)": { runs: 2, mean: ttft, low: null, high: null },
  error_rate: { runs: 2, mean: 0, low: 0, high: 0 },
});

const set = { level: 0.95, rule: "2 runs", figures: estimates(0.5), runs: [report(0.25), report(0.3)] };

test("one run is drawn as the page draws it", () => {
  assert.equal(kindOf(report(1)), "run");
  assert.equal(titleOf(report(1)), "Run");
  const said = words(documentView(report(0.25), reportView));
  assert.match(said, /http:\/\/server:8080/);
  assert.match(said, /time to first token 250 ms 500 ms 750 ms/);
});

test("repeated runs have means with intervals, and each run", () => {
  assert.equal(titleOf(set), "Repeated runs");
  const said = words(documentView({ ...set, precise: false }, reportView));
  assert.match(said, /2, wanted 2 runs: not reached/);
  assert.match(said, /95\.0 % interval/);
  assert.match(said, /requests 4\.00 req\/s 3\.80 req\/s 4\.20 req\/s 2/);
  assert.match(said, /time to first token, P95 500 ms – – 2/);
  assert.match(said, /Run 1: done .* 250 ms .*Run 2: done .* 300 ms/);
});

test("a search has its limit and all trials", () => {
  const trial = {
    requests: { due: 20, error: 1 },
    requests_per_second: 3.9,
    ttft: histogram(0.1),
    tpot: histogram(0.02),
  };
  const d = {
    url: "http://server:8080",
    objective: "ttft<1s",
    share: 0.99,
    ceiling: { users: 8 },
    ceiling_requests_per_second: 9,
    ceiling_output_tokens_per_second: 400,
    limit_requests_per_second: 4,
    beyond_requests_per_second: 4.5,
    trials: [
      { ...trial, users: 8, met: true },
      { ...trial, rate: 4, met: true },
      { ...trial, rate: 4.5, met: false, why: "3 requests missed the objective" },
    ],
  };
  const said = words(documentView(d, reportView));
  assert.match(said, /4\.00 req\/s: 99\.0 % of the requests meet the objective, at 4\.50 req\/s they do not/);
  assert.match(said, /9\.00 req\/s, 400 tok\/s with 8 users/);
  assert.match(said, /4\.00 req\/s 3\.90 req\/s 100 ms 200 ms 40\.0 ms 20 1 met/);
  assert.match(said, /3 requests missed the objective/);
  assert.match(words(documentView({ ...d, limit_requests_per_second: null }, reportView)), /none: not even at/);
  const early = { ...d, ceiling: {}, ceiling_requests_per_second: 0, limit_requests_per_second: null };
  assert.match(words(documentView({ ...early, beyond_requests_per_second: 0 }, reportView)), /the search ended early/);
  assert.match(
    words(documentView({ ...early, beyond_requests_per_second: 0, trials: null }, reportView)),
    /ended early/,
  );
});

test("a matrix marks what may be the best, unless that is all", () => {
  const server = { load_seconds: 1.5, peak_memory_bytes: 2e9 };
  const d = {
    llamaload: "matrix",
    command: ["llama-server", "-m", "model.gguf"],
    rule: "2 runs",
    may_be_best: { requests_per_second: [0, 1], "p95(ttft)": [1] },
    cells: [
      { settings: { "-np": "1" }, server, ...set },
      { settings: { "-np": "4" }, server, ...set, figures: estimates(0.2) },
      {
        settings: { "-np": "99" },
        level: 0.95,
        rule: "2 runs",
        figures: {},
        runs: [],
        failed: "it ended",
        log: "no memory",
      },
    ],
  };
  assert.equal(titleOf(d), "Flags of the server");
  const said = words(documentView(d, reportView));
  assert.match(said, /llama-server -m model\.gguf/);
  assert.match(said, /1 2 4\.00 req\/s ±5\.00 % 500 ms 1\.50 s 2\.00 GB/);
  assert.match(said, /4 2 4\.00 req\/s ±5\.00 % 200 ms \* 1\.50 s/);
  assert.match(said, /99 0 – – – – it ended/);
  assert.match(said, /The server's log, -np 99 no memory/);
  assert.match(said, /-np 4, run 2: done/);
  assert.doesNotMatch(words(documentView({ ...d, llamaload: "sweep", may_be_best: undefined }, reportView)), /\*/);
});

test("a comparison says what differs and what does not", () => {
  const d = {
    llamaload: "compare",
    a: report(0.2),
    b: report(0.3),
    over: "The intervals are over the requests.",
    differences: [
      { metric: "ttft", statistic: "p50", a: 0.2, b: 0.3, low: 0.05, high: 0.15, shown: true },
      { metric: "e2e", statistic: "mean", a: 1, b: 0.99, low: -0.1, high: 0.08, shown: false },
    ],
  };
  const said = words(documentView(d, reportView));
  assert.match(said, /time to first token, P50 200 ms 300 ms \+100 ms 50\.0 ms 150 ms 50\.0 % slower/);
  assert.match(said, /whole request, mean 1\.00 s 990 ms −10\.0 ms −100 ms 80\.0 ms no difference shown/);
  assert.match(said, /The intervals are over the requests\. A .* B /);
  assert.match(words(documentView({ ...d, a: set, b: set }, reportView)), /wanted 2 runs/);
});

test("a generator that did not keep up is said first", () => {
  const late = {
    ...report(1),
    generator: { limited: true, note: "GENERATOR WAS THE BOTTLENECK: 99 % were sent within 1 s" },
  };
  const said = words(documentView({ ...set, runs: [report(1), late] }, reportView));
  assert.match(said, /^ ?The generator was the bottleneck in 1 of 2 runs, such as: 99 %/);
});

test("figures have names and units", () => {
  assert.equal(nameOfFigure("mean(e2e)"), "whole request, mean");
  assert.equal(nameOfFigure("new_figure"), "new_figure");
  assert.equal(unitOf("p99(lag)"), "s");
  assert.equal(unitOf("drop_rate"), "ratio");
  assert.equal(unitOf("output_tokens_per_second"), "tokens/s");
});
