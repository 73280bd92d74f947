// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { test } from "node:test";
import { applyFrame, createState, hasData, missingSources, rulesOf, statistics } from "../www/store.js";

/** @param {Partial<Snapshot>} [more] */
const snapshot = (more = {}) => ({
  version: "v1",
  seq: 10,
  now: 5000,
  server: "a:8080",
  gpus: [],
  step: 1000,
  start: 1000,
  points: 5,
  servers: [],
  facts: {},
  sources: {},
  tiles: {},
  panels: { rate: { series: [{ key: "0{}", name: "decoding", query: 0, labels: {}, values: [1, 2, null, 4, 5] }] } },
  rules: [],
  annotations: [],
  requests: [],
  running: [],
  ...more,
});

/** @param {number} seq @param {number} bucket @param {Partial<Frame>} [more] */
const frame = (seq, bucket, more = {}) => ({ seq, now: bucket + 500, bucket, ...more });

/** @param {import("../www/store.js").State} state */
const values = (state) => state.panels.get("rate")?.get("0{}")?.values;

test("a frame replaces the value of its bucket", () => {
  const state = createState(snapshot());
  assert.ok(applyFrame(state, frame(11, 5000, { panels: { rate: [{ key: "0{}", value: 7 }] } })));
  assert.deepEqual(values(state), [1, 2, null, 4, 7]);
  assert.equal(state.start, 1000);
});

test("a frame of the next bucket moves the window", () => {
  const state = createState(snapshot());
  applyFrame(state, frame(11, 7000, { panels: { rate: [{ key: "0{}", value: 7 }] } }));
  assert.deepEqual(values(state), [null, 4, 5, null, 7]);
  assert.equal(state.start, 3000);
});

test("a frame far ahead leaves nothing of the window", () => {
  const state = createState(snapshot());
  applyFrame(state, frame(11, 700_000, { panels: {} }));
  assert.equal(state.panels.get("rate")?.size, 0);
  assert.equal(state.start, 696_000);
});

test("a series that does not come has a gap", () => {
  const state = createState(snapshot());
  applyFrame(state, frame(11, 6000, { panels: {} }));
  assert.deepEqual(values(state), [2, null, 4, 5, null]);
});

test("a new series comes with its name", () => {
  const state = createState(snapshot());
  const f = { key: "1{}", value: 3, name: "prompt", query: 1, labels: { hw_id: "g" } };
  applyFrame(state, frame(11, 5000, { panels: { rate: [f], other: [{ ...f, low: 2, high: 4 }] } }));
  const s = state.panels.get("rate")?.get("1{}");
  assert.deepEqual(s?.values, [null, null, null, null, 3]);
  assert.equal(s?.name, "prompt");
  assert.deepEqual(state.panels.get("other")?.get("1{}")?.low, [null, null, null, null, 2]);
});

test("a range that begins later has the values before it", () => {
  const state = createState(snapshot());
  applyFrame(state, frame(11, 5000, { panels: { rate: [{ key: "0{}", value: 7, low: 6, high: 9 }] } }));
  applyFrame(state, frame(12, 6000, { panels: { rate: [{ key: "0{}", value: 8 }] } }));
  assert.deepEqual(state.panels.get("rate")?.get("0{}")?.high, [2, null, 4, 9, 8]);
  assert.deepEqual(state.panels.get("rate")?.get("0{}")?.low, [2, null, 4, 6, 8]);
});

test("a frame that came already changes nothing, and one that is missing is noticed", () => {
  const state = createState(snapshot());
  assert.ok(applyFrame(state, frame(10, 9000)));
  assert.equal(state.start, 1000);
  assert.equal(applyFrame(state, frame(12, 6000)), false);
  assert.equal(state.seq, 10);
});

test("a window without values, and lists that are null, are as good as empty", () => {
  const state = createState(snapshot({ panels: { rate: { series: null } }, rules: null, requests: null, tiles: null }));
  assert.equal(hasData(state.panels.get("rate")), false);
  assert.deepEqual(state.rules, []);
  assert.ok(applyFrame(state, frame(11, 5000, { panels: { rate: null }, running: null })));
});

test("what a frame leaves out stays", () => {
  const rule = {
    name: "r",
    kind: "alert",
    id: "r",
    severity: "info",
    priority: 1,
    instance: "",
    summary: "",
    cure: "",
  };
  const state = createState(snapshot({ rules: [{ ...rule, runbook: "", since: 1 }], facts: { model: "m" } }));
  applyFrame(state, frame(11, 5000));
  assert.equal(state.rules.length, 1);
  assert.equal(state.facts.model, "m");
  applyFrame(state, frame(12, 5000, { rules: [], facts: {} }));
  assert.equal(state.rules.length, 0);
  assert.equal(state.facts.model, undefined);
});

test("a tile's sparkline moves with the window, not with each frame", () => {
  const state = createState(
    snapshot({ points: 300, start: 0, now: 300_000, tiles: { rate: { value: 1, spark: Array(60).fill(1) } } }),
  );
  applyFrame(state, { seq: 11, now: 301_000, bucket: 301_000, tiles: { rate: { value: 2 } } });
  assert.deepEqual(state.tiles.rate.spark.slice(-2), [1, 2]);
  applyFrame(state, { seq: 12, now: 305_000, bucket: 305_000, tiles: { rate: { value: 3 } } });
  assert.deepEqual(state.tiles.rate.spark.slice(-3), [1, 2, 3]);
});

test("requests that end are first, once, and not without end", () => {
  const request = (/** @type {string} */ id, /** @type {number} */ end) =>
    /** @type {RequestData} */ ({ id, end, server: "a:8080" });
  const state = createState(snapshot({ requests: [request("a", 2), request("b", 1)] }));
  applyFrame(state, frame(11, 5000, { requests: [request("c", 3), request("a", 2)] }));
  assert.deepEqual(
    state.requests.map((r) => r.id),
    ["c", "a", "b"],
  );
  applyFrame(state, frame(12, 5000, { requests: Array.from({ length: 1500 }, (_, i) => request(`x${i}`, 10 + i)) }));
  assert.equal(state.requests.length, 1000);
  assert.equal(state.requests[0].id, "x1499");
});

test("a request that both its client and the server tell of is one, with the wait", () => {
  const row = (/** @type {string} */ id, /** @type {Partial<RequestData>} */ more) =>
    /** @type {RequestData} */ ({ id, end: 1, server: "a:8080", wait: null, ...more });
  const own = row("own", { client: false });
  const client = row("client", { client: true, wait: 0.5 });
  for (const [first, second] of [
    [own, { ...client, joined: "own" }],
    [client, { ...own, joined: "client" }],
  ]) {
    const state = createState(snapshot({ requests: [] }));
    applyFrame(state, frame(11, 5000, { requests: [{ ...first }] }));
    assert.deepEqual(
      state.requests.map((r) => r.id),
      [first.id],
    );
    applyFrame(state, frame(12, 5000, { requests: [second] }));
    assert.deepEqual(
      state.requests.map((r) => [r.id, r.wait]),
      [["own", 0.5]],
    );
  }
});

test("statistics are of what was there, with the least and greatest within buckets", () => {
  const s = statistics({ values: [1, null, 3, 2], low: [0.5, null, 3, 1], high: [1, null, 9, 2] });
  assert.deepEqual(s, { last: 2, min: 0.5, mean: 2, p50: 2, max: 9, p95: 2.9 });
  assert.equal(statistics({ values: [1, 2, 3] }, 1, 1).mean, 2);
  assert.equal(statistics({ values: [null] }).max, null);
});

test("the first bottleneck is the most important one of the server", () => {
  const rule = (/** @type {string} */ id, /** @type {number} */ priority, /** @type {string} */ instance) =>
    /** @type {Rule} */ ({ id, priority, instance, kind: "bottleneck", severity: "", since: 0 });
  const rules = [
    rule("cache", 5, "a:8080"),
    rule("queue", 1, "b:8080"),
    rule("heat", 2, ""),
    rule("queue", 3, "a:8080"),
  ];
  assert.deepEqual(
    rulesOf(rules, "bottleneck", "a:8080").map((r) => r.id),
    ["heat", "queue", "cache"],
  );
  assert.equal(rulesOf(rules, "alert", "a:8080").length, 0);
});

test("a panel without data has its missing source named once", () => {
  const panel = (/** @type {string} */ id, /** @type {string[]} */ sources) => /** @type {Panel} */ ({ id, sources });
  const catalogue = /** @type {Catalogue} */ ({
    sources: [
      { id: "server", title: "", cure: "", probe: "" },
      { id: "log", title: "", cure: "", probe: "" },
    ],
    panels: [
      panel("rate", ["server"]),
      panel("ttft", ["log"]),
      panel("latency", ["log"]),
      panel("quiet", ["log", "server"]),
    ],
  });
  const state = createState(snapshot({ sources: { server: true, log: false } }));
  const { sources, quiet } = missingSources(catalogue, state);
  assert.deepEqual(
    sources.map((s) => [s.source.id, s.panels.map((p) => p.id)]),
    [["log", ["ttft", "latency"]]],
  );
  assert.deepEqual(
    quiet.map((p) => p.id),
    ["quiet"],
  );
});
