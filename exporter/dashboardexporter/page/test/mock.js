// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Servers that do not exist, with data that could be theirs: functions of time,
// so that a snapshot and the frames after it agree.

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600];
const LIMIT = 32;

/** A number from 0 to 1 that looks random, of whole numbers. */
export function noise(a, b = 0) {
  let h = (Math.imul(a | 0, 0x9e3779b1) ^ Math.imul(b | 0, 0x85ebca6b)) >>> 0;
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d) >>> 0;
  h = Math.imul(h ^ (h >>> 12), 0x297a2d39) >>> 0;
  return ((h ^ (h >>> 15)) >>> 0) / 2 ** 32;
}

/** From 0 to 1, slowly. */
const wave = (t, seed) =>
  0.5 +
  0.28 * Math.sin(t / 41_000 + seed) +
  0.14 * Math.sin(t / 13_700 + seed * 2.7) +
  0.08 * (noise(Math.floor(t / 1000), seed * 97) - 0.5);

/** How busy a server is. */
const busy = (t, seed) => Math.min(1, Math.max(0, 0.35 + 0.75 * wave(t * 0.6, seed)));

const server = (id) => `{instance=~"$server"}/* ${id} */`;
const panel = (id, group, title, unit, draw, queries, more = {}) => ({
  id,
  group,
  title,
  unit,
  draw,
  queries: queries.map((q) => ({ expr: server(id), legend: "", ...q })),
  help: "",
  sources: ["server"],
  ...more,
});

/** Each query has of: (t, seed, gpu) => number or null. */
const PANELS = [
  panel(
    "token-rate",
    "throughput",
    "Token generation rate",
    "tokens/s",
    "lines",
    [{ legend: "decoding", of: (t, s) => 210 * busy(t, s) * (0.9 + 0.1 * wave(t, s + 4)), spread: 0.12 }],
    { help: "Tokens generated a second, by all slots together." },
  ),
  panel("prompt-rate", "throughput", "Prompt rate", "tokens/s", "lines", [
    { legend: "evaluated", of: (t, s) => 1900 * wave(t, s + 1) ** 2, spread: 0.3 },
    { legend: "from cache", of: (t, s) => 2600 * wave(t, s + 2) ** 2, spread: 0.2 },
  ]),
  panel("request-rate", "throughput", "Request throughput", "requests/s", "stacked", [
    { legend: "completed", of: (t, s) => 1.1 * busy(t, s) },
    { legend: "cancelled", of: (t, s) => 0.12 * wave(t, s + 9) },
    { legend: "failed", of: (t, s) => (wave(t, s + 5) > 0.8 ? 0.2 : 0) },
  ]),
  panel(
    "latency",
    "latency",
    "Request processing time",
    "s",
    "percentiles",
    [
      { legend: "P50", of: (t, s) => (wave(t, s + 7) < 0.16 ? null : 2.1 + 2 * wave(t, s)) },
      { legend: "P95", of: (t, s) => (wave(t, s + 7) < 0.16 ? null : 5 + 4.4 * wave(t, s)) },
      { legend: "P99", of: (t, s) => (wave(t, s + 7) < 0.16 ? null : 7.5 + 7 * wave(t, s + 0.3)) },
    ],
    { help: "From the arrival of a request to its last token, as the server's log has it.", sources: ["log"] },
  ),
  panel(
    "ttft",
    "latency",
    "Time to first token",
    "s",
    "percentiles",
    [
      { legend: "P50", of: (t, s) => 0.22 + 0.3 * busy(t, s) },
      { legend: "P95", of: (t, s) => 0.47 + 0.9 * busy(t, s) },
      { legend: "P99", of: (t, s) => 0.9 + 1.9 * busy(t, s + 0.2) },
    ],
    { sources: ["log"] },
  ),
  panel(
    "tpot",
    "latency",
    "Time per token",
    "s/token",
    "percentiles",
    [
      { legend: "P50", of: (t, s) => 0.021 + 0.012 * busy(t, s) },
      { legend: "P95", of: (t, s) => 0.03 + 0.016 * busy(t, s) },
      { legend: "P99", of: (t, s) => 0.037 + 0.022 * busy(t, s + 0.2) },
    ],
    { sources: ["log"] },
  ),
  panel(
    "wait",
    "queue",
    "Mean wait for a slot",
    "s",
    "lines",
    [{ legend: "wait", of: (t, s) => 4.5 * Math.max(0, busy(t, s) - 0.45), spread: 0.2 }],
    { estimate: true, help: "Waiting requests over arrivals: Little's law. No request is timed for it." },
  ),
  panel(
    "queue",
    "queue",
    "Queue depth",
    "requests",
    "lines",
    [{ legend: "waiting", of: (t, s) => Math.round(9 * Math.max(0, busy(t, s) - 0.5)), spread: 0 }],
    { help: "Requests that wait for a slot." },
  ),
  panel(
    "slots",
    "queue",
    "Active slots",
    "count",
    "lines",
    [
      { legend: "busy", of: (t, s) => Math.min(4, Math.round(4.6 * busy(t, s))) },
      { legend: "slots", style: "dashed", of: () => 4 },
    ],
    {},
  ),
  panel(
    "state",
    "queue",
    "Server state",
    "count",
    "states",
    [
      { legend: "ok", of: (t) => (t % 5_000_000 < 20_000 ? 0 : 1) },
      { legend: "loading", of: (t) => (t % 5_000_000 < 20_000 ? 1 : 0) },
    ],
    { sample: "last" },
  ),
  panel(
    "context",
    "context",
    "Context in use",
    "ratio",
    "lines",
    [
      { legend: "mean of slots", of: (t, s) => 0.2 + 0.3 * wave(t, s + 3), spread: 0.05 },
      { legend: "fullest slot", of: (t, s) => 0.35 + 0.55 * wave(t, s + 3), spread: 0.05 },
    ],
    { max: 1, thresholds: [{ value: 0.9, level: "warning" }], sources: ["slots"] },
  ),
  panel(
    "cache",
    "context",
    "Cache hits",
    "ratio",
    "lines",
    [{ legend: "of prompt tokens", of: (t, s) => 0.45 + 0.35 * wave(t, s + 6), spread: 0.1 }],
    { max: 1 },
  ),
  panel(
    "lengths",
    "context",
    "Prompt and output lengths",
    "tokens",
    "lines",
    [
      { legend: "prompt, mean", of: (t, s) => 700 + 900 * wave(t, s + 11) },
      { legend: "output, mean", of: (t, s) => 120 + 180 * wave(t, s + 12) },
    ],
    { sources: ["log"] },
  ),
  panel("acceptance", "context", "Speculative acceptance", "ratio", "lines", [{ legend: "accepted", of: () => null }], {
    max: 1,
    sources: ["speculative"],
  }),
  panel(
    "gpu-util",
    "gpu",
    "GPU utilization",
    "ratio",
    "lines",
    [{ legend: "{{gpu}}", of: (t, s, g) => Math.min(1, 0.25 + 0.7 * busy(t, s + g * 0.35)), gpu: true, spread: 0.15 }],
    {
      max: 1,
      sources: ["gpu"],
      help: "The share of time in which any kernel ran: 100 % does not mean that the GPU is full.",
    },
  ),
  panel(
    "gpu-memory",
    "gpu",
    "GPU memory",
    "bytes",
    "lines",
    [
      { legend: "{{gpu}} used", of: (t, s, g) => (14.2 + 0.8 * g + 3.2 * wave(t / 9, s + g)) * 1e9, gpu: true },
      { legend: "{{gpu}} total", style: "dashed", of: () => 25.7e9, gpu: true, once: true },
    ],
    { sources: ["gpu"] },
  ),
  panel(
    "gpu-temperature",
    "gpu",
    "GPU temperature",
    "celsius",
    "lines",
    [
      { legend: "{{gpu}}", of: (t, s, g) => 52 + 24 * busy(t / 2, s + g * 0.35) + g * 0.7, gpu: true },
      { legend: "slowdown", style: "dashed", of: () => 87, gpu: true, once: true },
    ],
    { sources: ["gpu"] },
  ),
  panel(
    "gpu-power",
    "gpu",
    "GPU power",
    "watts",
    "lines",
    [
      { legend: "{{gpu}}", of: (t, s, g) => 95 + 210 * busy(t, s + g * 0.35), gpu: true, spread: 0.1 },
      { legend: "limit", style: "dashed", of: () => 350, gpu: true, once: true },
    ],
    { sources: ["gpu"] },
  ),
  panel(
    "gpu-clock",
    "gpu",
    "GPU clock",
    "hertz",
    "lines",
    [{ legend: "{{gpu}}", of: (t, s, g) => (1980 - 240 * (wave(t, s + g) > 0.75 ? 1 : 0)) * 1e6, gpu: true }],
    { sources: ["gpu"] },
  ),
  panel(
    "gpu-throttle",
    "gpu",
    "GPU throttling",
    "count",
    "states",
    [
      { legend: "power", of: (t, s) => (wave(t, s + 0.2) > 0.75 ? 1 : 0) },
      { legend: "heat", of: (t, s) => (wave(t, s + 2) > 0.86 ? 1 : 0) },
      { legend: "hardware", of: () => 0 },
    ],
    { sources: ["gpu"], sample: "last" },
  ),
  panel(
    "energy",
    "gpu",
    "Energy per token",
    "joules/token",
    "lines",
    [{ legend: "all GPUs", of: (t, s) => 1.1 + 0.5 * (1 - busy(t, s)) }],
    { sources: ["gpu"] },
  ),
  panel(
    "load-rate",
    "load",
    "Load: requests sent",
    "requests/s",
    "lines",
    [
      { legend: "due", style: "dashed", of: (t) => (loading(t) ? 1.5 : null) },
      { legend: "sent", of: (t, s) => (loading(t) ? 1.4 + 0.1 * wave(t, s) : null) },
    ],
    { sources: ["load"] },
  ),
  panel(
    "load-ttft",
    "load",
    "Load: first token, as clients see it",
    "s",
    "percentiles",
    [
      { legend: "P50", of: (t, s) => (loading(t) ? 1 + 3 * busy(t, s) : null) },
      { legend: "P95", of: (t, s) => (loading(t) ? 3 + 6 * busy(t, s) : null) },
    ],
    { sources: ["load"] },
  ),
];

/** A load run of two minutes, each ten minutes. */
const PERIOD = 600_000;
const loading = (t) => t % PERIOD < 200_000;

export const CATALOGUE = {
  version: "mock",
  loadgen: true,
  tick_ms: 1000,
  sources: [
    { id: "server", title: "llama-server", cure: "Add the receiver llamacpp to the pipeline.", probe: "up" },
    { id: "slots", title: "Slots", cure: "Start llama-server with --slots.", probe: "up" },
    {
      id: "log",
      title: "Exact latencies",
      cure: "Start llama-server with --log-file and add the connector llamacpplog.",
      probe: "up",
    },
    { id: "gpu", title: "GPU", cure: "Add the scraper gpu; it needs the NVIDIA driver.", probe: "up" },
    {
      id: "speculative",
      title: "Speculative decoding",
      cure: "Start llama-server with a draft model (--model-draft).",
      probe: "up",
    },
    { id: "load", title: "Load tests", cure: "Start a load test, with llamaload or on this page.", probe: "up" },
  ],
  groups: [
    { id: "throughput", title: "Throughput" },
    { id: "latency", title: "Latency" },
    { id: "queue", title: "Queue and slots" },
    { id: "context", title: "Context and cache" },
    { id: "gpu", title: "GPU" },
    { id: "load", title: "Load run" },
  ],
  panels: PANELS.map((p) => ({ ...p, queries: p.queries.map(({ expr, legend, style }) => ({ expr, legend, style })) })),
  tiles: [
    { id: "rate", title: "Token rate", unit: "tokens/s", panel: "token-rate" },
    {
      id: "wait",
      title: "Wait for a slot",
      unit: "s",
      panel: "wait",
      second: { label: "queue", unit: "requests" },
      thresholds: [{ value: 2, level: "warning" }],
    },
    { id: "ttft", title: "First token", unit: "s", panel: "ttft", second: { label: "P95", unit: "s" } },
    { id: "tpot", title: "Time per token", unit: "s/token", panel: "tpot", second: { label: "P95", unit: "s/token" } },
    {
      id: "context",
      title: "Context",
      unit: "ratio",
      panel: "context",
      thresholds: [{ value: 0.9, level: "critical" }],
    },
    { id: "cache", title: "Cache hits", unit: "ratio", panel: "cache" },
    { id: "gpu-util", title: "GPU", unit: "ratio", panel: "gpu-util" },
    { id: "gpu-power", title: "GPU power", unit: "watts", panel: "gpu-power", second: { label: "", unit: "celsius" } },
  ].map((t) => ({ help: "", expr: "", ...t })),
  facts: [
    { id: "model", title: "Model", expr: "", label: "model" },
    { id: "build", title: "Build", expr: "", label: "build" },
    { id: "uptime", title: "Up", expr: "", unit: "s" },
    { id: "slots", title: "Slots", expr: "", unit: "count" },
    { id: "state", title: "State", expr: "", label: "state" },
    { id: "context", title: "Context of a slot", expr: "", unit: "tokens" },
    { id: "restarts", title: "Restarts in the last hour", expr: "", unit: "count" },
  ],
  overview: [
    { id: "state", title: "State", expr: "", label: "state" },
    { id: "rate", title: "Token rate", unit: "tokens/s", expr: "", sparkline: true },
    { id: "wait", title: "Wait", unit: "s", expr: "" },
    { id: "ttft", title: "First token", unit: "s", expr: "" },
    { id: "context", title: "Context", unit: "ratio", expr: "" },
    { id: "gpu", title: "GPU", unit: "ratio", expr: "" },
  ],
};

/** Values of a unit that could be. */
const SIZES = {
  "tokens/s": 200,
  "requests/s": 1.5,
  requests: 6,
  s: 3,
  "s/token": 0.03,
  tokens: 1500,
  ratio: 0.9,
  bytes: 20e9,
  celsius: 75,
  watts: 250,
  "joules/token": 1.5,
  hertz: 1.9e9,
  "bytes/s": 3e8,
  count: 4,
};

/** Values for each {{label}} of a legend. */
const LABELS = {
  llamacpp_request_outcome: ["completed", "cancelled", "failed"],
  llamacpp_server_state: ["ok", "loading", "sleeping", "unreachable"],
  nvidia_gpu_throttle_reason: ["power_cap", "sw_thermal", "hw_thermal", "power_brake", "hw_slowdown", "sync_boost"],
  nvidia_gpu_clock: ["sm", "memory"],
  hw_sensor_location: ["gpu", "memory"],
  hw_limit_type: ["slowdown", "shutdown"],
  hw_state: ["ok", "degraded", "predicted_failure", "failed"],
  url_path: ["/metrics", "/slots", "/props", "/health"],
};

/**
 * Takes the real list of panels, as GET /live/catalogue has it, so that what is
 * added to it can be looked at without a collector.
 */
export function useCatalogue(catalogue) {
  Object.assign(CATALOGUE, catalogue);
  PANELS.length = 0;
  for (const [at, p] of catalogue.panels.entries()) {
    const queries = p.queries.flatMap((q, query) => {
      const label = Object.keys(LABELS).find((l) => q.legend.includes(`{{${l}}}`));
      const size = (SIZES[p.unit] ?? 10) * (p.draw === "percentiles" ? [0.4, 0.8, 1][query] : 1);
      return (label ? LABELS[label] : [""]).map((value, i) => ({
        query,
        gpu: q.legend.includes("{{hw_"),
        style: q.style,
        legend: q.legend
          .replace("{{hw_name}} {{hw_id}}", "{{gpu}}")
          .replace("{{hw_id}}", "{{gpu}}")
          .replace("{{hw_name}}", MODEL)
          .replace(`{{${label}}}`, value)
          .replace(/\{\{\w+\}\}/g, (name) => (name === "{{gpu}}" ? name : name.slice(2, -2))),
        of: (t, s, g) => {
          if (q.style === "dashed") return size * (1.1 + i / 8);
          if (p.draw === "states") return wave(t, at + i * 3 + g) > (i === 0 ? 0.3 : 0.8) ? 1 : 0;
          return size * (0.3 + 0.7 * wave(t, s + at + query + i * 1.7 + g * 0.4)) * (i === 0 ? 1 : 0.4);
        },
      }));
    });
    PANELS.push({ ...p, queries });
  }
}

const range = (n) => Array.from({ length: n }, (_, i) => i);

const MODES = {
  one: { servers: ["localhost:8080"], gpus: 1 },
  gpus: { servers: ["localhost:8080"], gpus: 8 },
  fleet: { servers: range(50).map((i) => `llama-${String(i + 1).padStart(2, "0")}:8080`), gpus: 2 },
  router: {
    servers: [
      "localhost:8080",
      ...[
        "qwen3-0.6b",
        "qwen3-4b",
        "qwen3-8b",
        "qwen3-14b",
        "llama-3.2-3b",
        "llama-3.1-8b",
        "gemma-3-4b",
        "gemma-3-12b",
        "phi-4",
        "mistral-7b",
        "deepseek-r1-8b",
        "nomic-embed",
      ].map((m) => `localhost:8080/${m}`),
    ],
    gpus: 1,
  },
  empty: { servers: [], gpus: 0 },
};

export const modes = Object.keys(MODES);

const MODEL = "NVIDIA GeForce RTX 4090";
const gpuID = (i) => `GPU-${(0xa1b2c3d4 + i * 0x1111).toString(16)}-77aa-4c1e-9d2f-00000000000${i}`;

/** Requests of a slot that ended before t and after from, and the one that runs. */
function slotRequests(id, seed, slot, from, t) {
  const out = [];
  const length = 6400 + 900 * slot;
  for (let n = Math.floor(from / length) - 1; n * length < t; n++) {
    const r = (k) => noise(n, seed * 1000 + slot * 31 + k);
    const start = n * length + r(1) * 900;
    if (start > t) break;
    if (r(2) > 0.35 + 0.65 * busy(start, seed)) continue;
    const prompt = 60 + Math.floor(r(3) * 2400);
    const cached = r(4) < 0.6 ? Math.floor(prompt * r(5)) : 0;
    const first = start + 120 + (prompt - cached) * 0.45;
    const tokens = 20 + Math.floor(r(6) * 190);
    const end = Math.min(n * length + length - 60, first + tokens * (22 + 8 * r(7)));
    const odd = r(8);
    const outcome = odd < 0.03 ? "failed" : odd < 0.08 ? "cancelled" : "completed";
    out.push({
      id: `${id}-${slot}-${n}`,
      server: id,
      model: "qwen2.5-3b-q4_k_m",
      slot,
      task: (n * 7 + slot) % 100000,
      start: Math.round(start),
      first: Math.round(first),
      end: Math.round(end),
      outcome,
      error: outcome === "failed" ? "context size exceeded" : "",
      prompt,
      cached,
      generated: tokens,
      drafted: null,
      accepted: null,
      ttft: (first - start) / 1000,
      duration: (end - start) / 1000,
      trace: range(4)
        .map((k) =>
          Math.floor(noise(n, slot * 10 + k) * 2 ** 32)
            .toString(16)
            .padStart(8, "0"),
        )
        .join(""),
      client: false,
    });
  }
  return out;
}

export class Mock {
  constructor(mode) {
    this.mode = MODES[mode] ?? MODES.one;
    this.began = Date.now() - 11_520_000;
  }

  view(query) {
    const window = Number(query.get("window") ?? 300) * 1000;
    const points = Number(query.get("points") ?? 300);
    const end = query.get("end") ? Number(query.get("end")) : null;
    const server = query.get("server") || this.mode.servers[0] || "";
    const step = (STEPS.find((s) => window / (s * 1000) <= points) ?? 600) * 1000;
    const all = range(this.mode.gpus).map(gpuID);
    const gpus = query.getAll("gpu").length ? query.getAll("gpu") : all;
    return {
      window,
      points: Math.round(window / step),
      end,
      server,
      step,
      gpus,
      all,
      seed: Math.max(0, this.mode.servers.indexOf(server)) * 0.77,
    };
  }

  series(view, t) {
    const out = {};
    for (const p of PANELS) {
      const list = [];
      if (this.mode.servers.length > 0) {
        for (const [query, q] of p.queries.entries()) {
          const ids = q.gpu ? (q.once ? view.gpus.slice(0, 1) : view.gpus) : [null];
          for (const id of ids) {
            const g = id === null ? 0 : view.all.indexOf(id);
            const v = q.of(t, view.seed, g);
            const index = q.query ?? query;
            if (v === null) continue;
            const spread = v * (q.spread ?? 0) * noise(Math.floor(t / view.step), query + g * 7);
            list.push({
              key: `${index}{${id ?? ""}${q.legend}}`,
              name: q.legend.replace("{{gpu}}", `${MODEL} ${id}`),
              query: index,
              labels: id === null ? {} : { hw_id: id, hw_name: MODEL },
              value: v,
              ...(spread > 0 ? { low: v - spread, high: v + spread } : {}),
            });
          }
        }
      }
      out[p.id] = list;
    }
    return out;
  }

  snapshot(view, now) {
    const end = view.end ?? now;
    const last = Math.floor(end / view.step) * view.step;
    const start = last - (view.points - 1) * view.step;
    const panels = {};
    for (const p of PANELS) panels[p.id] = new Map();
    for (let i = 0; i < view.points; i++) {
      const t = start + i * view.step;
      if (t > now || (t % 700_000 > 200_000 && t % 700_000 < 215_000)) continue;
      for (const [id, list] of Object.entries(this.series(view, t))) {
        for (const s of list) {
          let entry = panels[id].get(s.key);
          if (!entry) {
            const empty = () => Array(view.points).fill(null);
            entry = { key: s.key, name: s.name, query: s.query, labels: s.labels, values: empty() };
            if (s.low !== undefined) Object.assign(entry, { low: empty(), high: empty() });
            panels[id].set(s.key, entry);
          }
          entry.values[i] = s.value;
          if (entry.low) {
            entry.low[i] = s.low ?? s.value;
            entry.high[i] = s.high ?? s.value;
          }
        }
      }
    }
    const tiles = {};
    for (const t of CATALOGUE.tiles) {
      const at = (k) => this.tile(t.id, view, now - (view.window / 60) * (59 - k));
      tiles[t.id] = { ...at(59), spark: range(60).map((k) => at(k).value) };
    }
    return {
      version: CATALOGUE.version,
      seq: seqOf(now),
      now,
      server: view.server,
      gpus: view.gpus,
      step: view.step,
      start,
      points: view.points,
      servers: this.serversWithSparks(now, view.window),
      facts: this.facts(now),
      sources: this.sources(),
      tiles: this.mode.servers.length ? tiles : {},
      panels: Object.fromEntries(Object.entries(panels).map(([id, m]) => [id, { series: [...m.values()] }])),
      rules: this.rules(view, now),
      annotations: this.annotations(start, now),
      ...this.requests(view, start, end),
    };
  }

  frame(view, now) {
    const { requests, running } = this.requests(view, now - 1500, now);
    return {
      seq: seqOf(now),
      now,
      bucket: Math.floor(now / view.step) * view.step,
      facts: this.facts(now),
      tiles: this.mode.servers.length
        ? Object.fromEntries(CATALOGUE.tiles.map((t) => [t.id, this.tile(t.id, view, now)]))
        : {},
      servers: this.servers(now),
      panels: this.series(view, now),
      rules: this.rules(view, now),
      requests: requests.filter((r) => r.end > now - 1500),
      running,
    };
  }

  tile(id, view, t) {
    if (!PANELS.some((p) => p.id === "ttft")) {
      const tile = CATALOGUE.tiles.find((other) => other.id === id);
      const v = SIZES[tile.unit] * (0.3 + 0.5 * wave(t, view.seed + id.length));
      return { value: v, second: tile.second ? SIZES[tile.second.unit] * 0.7 : null };
    }
    const of = (panelID, q, g = 0) => PANELS.find((p) => p.id === panelID).queries[q].of(t, view.seed, g);
    switch (id) {
      case "rate":
        return { value: of("token-rate", 0) };
      case "wait":
        return { value: of("wait", 0), second: of("queue", 0) };
      case "ttft":
        return { value: of("ttft", 0), second: of("ttft", 1) };
      case "tpot":
        return { value: of("tpot", 0), second: of("tpot", 1) };
      case "context":
        return { value: of("context", 1) };
      case "cache":
        return { value: of("cache", 0) };
      case "gpu-util":
        return { value: of("gpu-util", 0) };
      default:
        return { value: of("gpu-power", 0), second: of("gpu-temperature", 0) };
    }
  }

  servers(now) {
    return this.mode.servers.map((id, i) => {
      const s = i * 0.77;
      const down = this.mode.servers.length > 20 && i % 17 === 11;
      const sleeping = id.includes("/") && i % 3 === 0;
      if (down) return { id, values: { state: "down" } };
      if (sleeping) return { id, values: { state: "sleeping", rate: 0 } };
      return {
        id,
        values: {
          state: i % 23 === 19 ? "loading" : "ok",
          rate: 210 * busy(now, s),
          wait: 4.5 * Math.max(0, busy(now, s) - 0.45),
          ttft: 0.22 + 0.3 * busy(now, s),
          context: 0.35 + 0.55 * wave(now, s + 3),
          gpu: Math.min(1, 0.25 + 0.7 * busy(now, s)),
        },
      };
    });
  }

  serversWithSparks(now, window) {
    const past = range(60).map((k) => this.servers(now - (window / 60) * (59 - k)));
    return past[59].map((s, i) => ({ ...s, sparks: { rate: past.map((p) => p[i].values.rate ?? null) } }));
  }

  facts(now) {
    if (this.mode.servers.length === 0) return {};
    return {
      model: "qwen2.5-3b-instruct-q4_k_m",
      build: "b11669",
      uptime: Math.floor((now - this.began) / 1000),
      slots: 4,
      state: "ok",
      context: 8192,
      restarts: 0,
    };
  }

  sources() {
    const on = this.mode.servers.length > 0;
    return { server: on, slots: on, log: on, gpu: on, speculative: false, load: on };
  }

  rules(view, now) {
    if (this.mode.servers.length === 0) return [];
    const gpu = Math.round(100 * Math.min(1, 0.25 + 0.7 * busy(now, view.seed)));
    const rule = (r) => ({
      name: r.id,
      kind: "bottleneck",
      severity: "",
      priority: 1,
      instance: view.server,
      cure: "",
      runbook: "",
      since: now - 252_000,
      ...r,
    });
    const list = [
      rule({
        id: "queue",
        summary: `Requests wait: all 4 slots are busy while the GPU is at ${gpu} % and memory has room.`,
        cure: "Raise --parallel.",
      }),
      rule({
        id: "cache",
        priority: 5,
        summary: "Half of each prompt is computed again: 54 % of its tokens come from the cache.",
        cure: "Send a conversation's turns to the same server, and keep its prompt's beginning.",
      }),
      rule({
        id: "gpu-hot",
        name: "LlamaGPUHot",
        kind: "alert",
        severity: "warning",
        summary: "GPU 0 is at 84 °C, 3 °C below the point at which it slows down.",
        cure: "Improve the airflow, or lower its power limit.",
        runbook: "https://example.com/docs/alerts.md#llamagpuhot",
        since: now - 61_000,
      }),
    ];
    if (this.mode.servers.length > 20) {
      list.push(
        rule({
          id: "down",
          name: "LlamaServerDown",
          kind: "alert",
          severity: "critical",
          instance: this.mode.servers[11],
          summary: "The server does not answer.",
          cure: "Look at its log.",
          since: now - 600_000,
        }),
      );
    }
    return list;
  }

  annotations(start, now) {
    if (this.mode.servers.length === 0) return [];
    const list = [];
    for (let t = Math.floor(start / PERIOD) * PERIOD; t < now; t += PERIOD) {
      const end = t + 200_000;
      list.push({
        id: `load-${t}`,
        time: t,
        end: end < now ? end : null,
        kind: "load",
        text: "chat, 1.5 req/s",
        run: `run-${t}`,
      });
      if (end + 100_000 < now)
        list.push({ id: `alert-${t}`, time: t + 250_000, end: t + 300_000, kind: "alert", text: "LlamaQueueGrowing" });
    }
    list.push({
      id: "restart",
      time: now - 145_000 - (now % 60_000),
      end: null,
      kind: "restart",
      text: "the server restarted",
    });
    list[list.length - 1].end = list[list.length - 1].time;
    return list.filter((a) => (a.end ?? now) >= start);
  }

  requests(view, from, t) {
    if (this.mode.servers.length === 0) return { requests: [], running: [] };
    const all = range(4).flatMap((slot) => slotRequests(view.server, Math.round(view.seed * 100), slot, from, t));
    const requests = all
      .filter((r) => r.end <= t && r.end >= from)
      .sort((a, b) => b.end - a.end)
      .slice(0, 200)
      .map((r) => (r.slot < 2 ? throughProxy(r) : r));
    const running = all
      .filter((r) => r.end > t)
      .map((r) => {
        const generating = t >= r.first;
        const generated = generating ? Math.floor(((t - r.first) / (r.end - r.first)) * r.generated) : 0;
        return {
          server: r.server,
          slot: r.slot,
          task: r.task,
          state: generating ? "generating" : "prompt",
          since: r.start,
          prompt: r.prompt,
          generated,
          remaining: r.generated - generated,
          context: r.prompt + generated,
        };
      });
    return { requests, running };
  }
}

/** Came earlier than it got its slot, and from whom is known. */
function throughProxy(r) {
  const wait = 400 + ((r.task * 37) % 2600);
  return {
    ...r,
    start: r.start - wait,
    began: r.start,
    wait: wait / 1000,
    ttft: r.ttft + wait / 1000,
    duration: r.duration + wait / 1000,
    proxied: true,
    client_name: r.task % 2 ? "alice" : "batch",
  };
}

export const seqOf = (now) => Math.floor(now / 1000);
export const limit = LIMIT;
