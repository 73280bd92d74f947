// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

// Modules that draw find a document only in a browser.
Object.assign(globalThis, { document: { createComment: () => ({}), createTreeWalker: () => ({}) } });

const { backoff } = await import("../www/stream.js");
const { build, parse, viewQuery } = await import("../www/url.js");
const { keyOf } = await import("../www/keys.js");
const { lines, lonely, rowsOf, top } = await import("../www/charts.js");
const { shortName } = await import("../www/names.js");
const { bars, describe, slotCount } = await import("../www/lanes.js");
const { requestView, titleOf } = await import("../www/requests.js");
const { path } = await import("../www/spark.js");
const { level } = await import("../www/tiles.js");
const { cell, statisticsCSV, rows, valuesCSV } = await import("../www/table.js");
const { choices, formatSpans, overlays, pairs, parseSpans } = await import("../www/compare.js");
const { nameOf, sorted } = await import("../www/overview.js");
const { figures } = await import("../www/report.js");
const { limitsOf } = await import("../www/verdict.js");
const { createState } = await import("../www/store.js");
const { SCENE, SHADES, EIGHT } = await import("../www/colours.js");
const { CATALOGUE, Mock } = await import("./mock.js");

const shot = (mode = "one", query = "window=300&points=300") => {
  const mock = new Mock(mode);
  return createState(mock.snapshot(mock.view(new URLSearchParams(query)), 1_800_000_000_000));
};
const catalogue = /** @type {Catalogue} */ (/** @type {unknown} */ (CATALOGUE));
const panelOf = (/** @type {string} */ id) => /** @type {Panel} */ (catalogue.panels?.find((p) => p.id === id));

test("the address of the page says what it shows, both ways", () => {
  for (const url of [
    "",
    "?server=localhost:8080",
    "?server=localhost:8080/qwen&gpu=GPU-1&gpu=GPU-2&window=900",
    "?servers&server=a",
    "?window=101&end=1795644244884",
    "?window=300&end=1795644244884&compare=1%2C60%7E2%2C60",
  ]) {
    assert.equal(build(parse(url)), url);
  }
  assert.equal(parse("?window=5").view.window, 300);
  assert.equal(parse("?window=100000").view.window, 300);
  assert.equal(parse("?end=-1&window=x").view.end, null);
  assert.equal(viewQuery({ server: "", gpus: [], window: 60, end: null }, 300), "window=60&points=300");
});

test("a server that does not answer is limited by that alone", () => {
  const state = shot();
  const rule = (/** @type {string} */ id, /** @type {number} */ priority) =>
    /** @type {Rule} */ ({ kind: "bottleneck", id, instance: state.server, priority, severity: "", since: 0 });
  state.rules = [rule("nothing", 9), rule("state", 0)];
  const limits = () => limitsOf(state).map((r) => r.id);
  state.facts.state = "ok";
  assert.deepEqual(limits(), ["state", "nothing"]);
  state.facts.state = "unreachable";
  assert.deepEqual(limits(), ["state"]);
  state.rules = [rule("nothing", 9)];
  assert.deepEqual(limits(), [], "the rule of the state follows within seconds");
});

test("attempts to connect become rarer, and differ", () => {
  assert.equal(backoff(0, 0.5), 500);
  assert.equal(backoff(3, 0.5), 4000);
  assert.equal(backoff(50, 0.5), 15_000);
  assert.ok(backoff(2, 0) < backoff(2, 1));
});

test("keys act on the page, not on fields and buttons", () => {
  const keys = [{ key: " ", help: "", act: () => {} }];
  const event = { key: " ", ctrlKey: false, metaKey: false, altKey: false, target: { tagName: "DIV" } };
  assert.equal(keyOf(keys, event), keys[0]);
  assert.equal(keyOf(keys, { ...event, target: null }), keys[0]);
  for (const tagName of ["INPUT", "SELECT", "BUTTON"])
    assert.equal(keyOf(keys, { ...event, target: { tagName } }), null);
  assert.equal(keyOf(keys, { ...event, ctrlKey: true }), null);
  assert.equal(keyOf(keys, { ...event, key: "x" }), null);
});

test("percentiles are of one hue, and limits dashed", () => {
  const state = shot("gpus");
  const latency = lines(panelOf("ttft"), /** @type {any} */ (state.panels.get("ttft")), "dark", state.gpus);
  assert.deepEqual(
    latency.map((l) => l.stroke),
    SHADES.dark,
  );
  const memory = lines(panelOf("gpu-memory"), /** @type {any} */ (state.panels.get("gpu-memory")), "dark", state.gpus);
  assert.equal(memory.length, 9);
  assert.deepEqual(
    memory.slice(0, 8).map((l) => l.stroke),
    EIGHT.dark,
  );
  assert.equal(memory[8].stroke, SCENE.dark.limit);
  assert.ok(memory[8].dash.length > 0);
});

test("a GPU keeps its colour when fewer are shown of a panel", () => {
  const state = shot("gpus");
  const all = /** @type {Map<string, any>} */ (state.panels.get("gpu-util"));
  const last = [...all].slice(-1);
  const [line] = lines(panelOf("gpu-util"), new Map(last), "light", state.gpus);
  assert.equal(line.stroke, EIGHT.light[7]);
});

test("a GPU in a name has its number, and the only one has none", () => {
  const labels = { hw_id: "GPU-1", hw_name: "NVIDIA X" };
  const name = (/** @type {string} */ text, /** @type {string[]} */ gpus, /** @type {any} */ own = labels) =>
    shortName(/** @type {any} */ ({ name: text, labels: own }), gpus);
  assert.equal(name("NVIDIA X GPU-1", ["GPU-1"]), "NVIDIA X");
  assert.equal(name("NVIDIA X GPU-1", ["GPU-0", "GPU-1"]), "GPU 1");
  assert.equal(name("sw_power_cap NVIDIA X GPU-1", ["GPU-1"]), "sw power cap");
  assert.equal(name("sw_power_cap NVIDIA X GPU-1", ["GPU-0", "GPU-1"]), "sw power cap GPU 1");
  assert.equal(name("limit of NVIDIA X GPU-1", ["GPU-1"]), "limit");
  assert.equal(name("a:8080 on GPU-1", ["GPU-1"], { hw_id: "GPU-1", instance: "a:8080" }), "a:8080 on GPU");
  assert.equal(name("NVIDIA X memory slowdown", ["GPU-1"], { hw_name: "NVIDIA X" }), "memory slowdown");
  assert.equal(name("P95", [], {}), "P95");
});

test("of many states those are rows that were the case", () => {
  const line = (/** @type {number} */ i) => /** @type {any} */ ({ series: { values: [0, i % 10 === 0 ? 1 : 0] } });
  assert.equal(rowsOf(Array.from({ length: 5 }, (_, i) => line(i))).length, 5);
  assert.equal(rowsOf(Array.from({ length: 64 }, (_, i) => line(i))).length, 7);
  assert.equal(rowsOf(Array.from({ length: 64 }, () => line(1))).length, 8);
});

test("stacked lines are sums, and a gap is a gap", () => {
  const series = (/** @type {number} */ query, /** @type {Values} */ values) =>
    /** @type {[string, any]} */ ([`${query}`, { key: `${query}`, name: `${query}`, query, labels: {}, values }]);
  const data = new Map([series(0, [1, null, 1]), series(1, [2, null, null])]);
  const drawn = lines(panelOf("request-rate"), data, "light", []).map((l) => l.drawn);
  assert.deepEqual(drawn, [
    [1, null, 1],
    [3, null, 1],
  ]);
});

test("a value without neighbours is drawn as a point", () => {
  assert.deepEqual(lonely([1, null, 2, null, 3, 4]), [0, 2]);
  assert.deepEqual(lonely([]), []);
});

test("a scale ends at the panel's own maximum, or a little above the data", () => {
  assert.equal(top(panelOf("cache"), 0.3), 1);
  assert.equal(top(panelOf("cache"), 1.2), 1.2);
  assert.ok(Math.abs(top(panelOf("queue"), 10) - 10.8) < 1e-9);
  assert.equal(top(panelOf("queue"), 0), 1);
  assert.equal(top(panelOf("queue"), null), 1);
});

test("lanes have the server's own requests, and those that run", () => {
  const state = shot();
  const list = bars(state);
  assert.ok(list.length > 50);
  assert.equal(slotCount(state, list), 4);
  assert.ok(list.every((b) => b.request || b.end === null));
  const request = { ...state.requests[0], client: true };
  assert.equal(bars({ ...state, requests: [request], running: [] }).length, 0);
  assert.equal(bars({ ...state, requests: [{ ...request, client: false, server: "other" }], running: [] }).length, 0);
  assert.match(describe(list[0], state.now), /task \d+ · .* · prompt/);
});

test("a request through the proxy is in its lane from when it got its slot", () => {
  const state = shot();
  const request = /** @type {RequestData} */ (state.requests.find((r) => r.proxied));
  const [bar] = bars({ ...state, requests: [request], running: [] });
  assert.equal(bar.start, request.began);
  assert.ok(bar.start > request.start);
  assert.match(describe(bar, state.now), /waited [\d.]+ m?s · first token/);
  assert.equal(
    bars({ ...state, requests: [{ ...request, slot: -1 }], running: [] }).length,
    0,
    "its slot is not known yet",
  );
});

/** What a template says, without its marks. @param {any} t @returns {string} */
function words(t) {
  if (Array.isArray(t)) return t.map(words).join("");
  if (!t?.strings) return typeof t === "function" || t == null || typeof t === "symbol" ? "" : String(t);
  return t.strings.map((/** @type {string} */ s, /** @type {number} */ i) => s + words(t.values[i])).join("");
}

test("the details of a request say where its time went", () => {
  const request = /** @type {RequestData} */ ({
    ...shot().requests[0],
    ...{ start: 1000, began: 3000, first: 3500, end: 6000, slot: 2, task: 17, prompt: 100, cached: 50, generated: 51 },
    ...{ wait: 2, ttft: 2.5, duration: 5, proxied: true, client_name: "alice", client: false },
  });
  const said = (/** @type {Partial<RequestData>} */ more) =>
    words(requestView({ ...request, ...more }, 10_000, () => {}))
      .replace(/<[^>]*>/g, " ")
      .replace(/\s+/g, " ");
  const drawn = (/** @type {Partial<RequestData>} */ more) =>
    [
      ...words(requestView({ ...request, ...more }, 10_000, () => {})).matchAll(
        /<rect class=(\w+) x=(\S+) \S+ width=(\S+)/g,
      ),
    ].map((m) => [m[1], Number(m[2]), Number(m[3])]);
  assert.match(said({}), /waited 2\.00 s.*prompt 500 ms.*answer 2\.50 s/);
  assert.match(said({}), /client alice slot and task 2, 17 seen by the proxy, and the server's log came/);
  assert.match(said({}), /wait for a slot 2\.00 s first token after 2\.50 s/);
  assert.match(said({}), /prompt rate 100 tok\/s/, "the wait is no work on the prompt");
  assert.deepEqual(drawn({}), [
    ["queue", 0, 40],
    ["prompt", 40, 10],
    ["generating", 50, 50],
  ]);
  assert.match(said({ slot: -1, task: -1 }), /client alice seen by the proxy came/);

  const own = { began: undefined, proxied: undefined, client_name: undefined };
  assert.doesNotMatch(said({ ...own, wait: null }), /waited|client |wait/);
  assert.match(said(own), /seen by the server began .* wait and network 2\.00 s/, "as the load generator saw it");
  assert.deepEqual(drawn(own), [
    ["queue", 0, 0],
    ["prompt", 0, 50],
    ["generating", 50, 50],
  ]);
  assert.deepEqual(
    drawn({ first: null, began: null }).map(([part, , width]) => [part, width]),
    [
      ["queue", 0],
      ["prompt", 100],
      ["generating", 0],
    ],
  );
  assert.equal(titleOf({ ...request, task: -1 }), "Request");
  assert.equal(titleOf(request), "Request of task 17");
});

test("a sparkline is broken where there is nothing", () => {
  assert.equal(path([0, 1, null, 1], 3, 12), "M0.0 11.0L1.0 1.0M3.0 1.0h1");
  assert.equal(path([null, null], 10, 10), "");
});

test("a tile has the worst level that its value has reached", () => {
  const thresholds = [
    { value: 1, level: "warning" },
    { value: 2, level: "critical" },
  ];
  assert.equal(level(thresholds, 0.5), "");
  assert.equal(level(thresholds, 1), "warning");
  assert.equal(level(thresholds, 3), "critical");
  assert.equal(level(thresholds, null), "");
  assert.equal(level(null, 3), "");
});

test("CSV keeps commas, quotes and formulas as text", () => {
  assert.equal(cell('a "b", c'), '"a ""b"", c"');
  assert.equal(cell("=1+1"), "'=1+1");
  assert.equal(cell(-1.5), "-1.5");
  assert.equal(cell(null), "");
  const state = shot();
  const csv = statisticsCSV(rows(catalogue, state, [state.start, state.start + 300_000]))
    .trim()
    .split("\r\n");
  assert.equal(csv[0], "panel,series,unit,mean,p50,p95,min,max,last");
  assert.ok(csv.length > 30);
  const values = valuesCSV(catalogue, state).trim().split("\r\n");
  assert.equal(values.length, state.points + 1);
});

test("two windows in the address are read as they were written", () => {
  /** @type {[any, any]} */
  const spans = [
    { end: 1_800_000_000_000, window: 60, run: "" },
    { end: 1_800_000_100_000, window: 120, run: "run,1" },
  ];
  assert.deepEqual(parseSpans(formatSpans(...spans)), spans);
  for (const bad of ["", "1,60", "1,60~2,5", "x,60~2,60", "1,60~2,60~3,60"]) assert.equal(parseSpans(bad), null, bad);
});

test("windows are compared by what their series are", () => {
  const [a, b] = [shot("one", "window=3600&points=300"), shot("one", "window=300&points=300&end=1799999000000")];
  const list = pairs(catalogue, a, b);
  assert.ok(list.every((p) => p.a || p.b));
  assert.ok(list.some((p) => p.panel.id === "latency" && p.a?.name === "P95" && p.b?.name === "P95"));
  assert.ok(!list.some((p) => p.series.name === "slots"), "a limit is nothing to compare");
  const drawn = Object.fromEntries(overlays(list).map((p) => [p.panel.id, p.series.name]));
  assert.equal(drawn.latency, "P95");
  assert.equal(drawn["request-rate"], "completed");
  assert.ok(choices(a, [a.now - 60_000, a.now]).some((c) => c.text.startsWith("load run")));
});

test("servers are sorted with the unknown last, and models named below their router", () => {
  const state = shot("fleet");
  const values = sorted(state.servers, { column: "rate", down: true }).map((s) => s.values.rate ?? null);
  const known = /** @type {number[]} */ (values.filter((v) => v !== null));
  assert.deepEqual(
    known,
    known.toSorted((x, y) => y - x),
  );
  assert.equal(values.at(-1), null);
  const router = shot("router");
  assert.deepEqual(nameOf("localhost:8080/phi-4", router.servers), { name: "phi-4", child: true });
  assert.deepEqual(nameOf("other/phi-4", router.servers), { name: "other/phi-4", child: false });
});

test("the figures of a report are there even where it has little", () => {
  assert.ok(figures({}).every((f) => f.value === null));
  assert.equal(figures({ rates: { output_tokens: 7 } })[0].value, 7);
});

test("modules import each other by bare names only, and have no style of their own", () => {
  const www = new URL("../www/", import.meta.url);
  for (const name of readdirSync(www).filter((n) => n.endsWith(".js"))) {
    const code = readFileSync(new URL(name, www), "utf8");
    for (const [, from] of code.matchAll(/^(?:import|export) .*from "([^"]+)"/gm)) assert.match(from, /^#page\//, name);
    assert.doesNotMatch(code, /style=/, name);
  }
});
