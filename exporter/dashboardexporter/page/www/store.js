// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// What the page knows: a snapshot, kept up to date by frames. No document, no
// clock, no network.

/**
 * @typedef {object} Series
 * @property {string} key
 * @property {string} name
 * @property {number} query
 * @property {Record<string, string>} labels
 * @property {Values} values one a bucket
 * @property {Values | null} low the least of a bucket, where that differs
 * @property {Values | null} high
 */

/**
 * @typedef {object} State
 * @property {string} version
 * @property {number} seq
 * @property {number} now
 * @property {string} server
 * @property {string[]} gpus
 * @property {number} step milliseconds
 * @property {number} start of the first bucket
 * @property {number} points
 * @property {ServerRow[]} servers
 * @property {Map<string, Values>} sparks of servers, by id and column
 * @property {Record<string, Scalar>} facts
 * @property {Record<string, boolean>} sources
 * @property {Record<string, {value: number | null, second: number | null, spark: Values}>} tiles
 * @property {Map<string, Map<string, Series>>} panels
 * @property {Rule[]} rules
 * @property {Annotation[]} annotations
 * @property {boolean} partial whether more panels are to come
 * @property {RequestData[]} requests the newest first
 * @property {Running[]} running
 */

/** As many requests as a snapshot has. */
const REQUESTS = 1000;
/** As many points as a tile's sparkline has. */
export const SPARK = 60;

/**
 * @param {Snapshot} snapshot
 * @returns {State}
 */
export function createState(snapshot) {
  const { version, seq, now, server, step, start, points } = snapshot;
  /** @type {State["panels"]} */
  const panels = new Map();
  for (const [id, panel] of Object.entries(snapshot.panels ?? {})) {
    /** @type {Map<string, Series>} */
    const list = new Map();
    for (const s of panel.series ?? []) {
      list.set(s.key, {
        key: s.key,
        name: s.name,
        query: s.query,
        labels: s.labels ?? {},
        values: fit(s.values, points),
        low: s.low ? fit(s.low, points) : null,
        high: s.high ? fit(s.high, points) : null,
      });
    }
    panels.set(id, list);
  }
  /** @type {State["tiles"]} */
  const tiles = {};
  for (const [id, t] of Object.entries(snapshot.tiles ?? {})) {
    tiles[id] = { value: t.value ?? null, second: t.second ?? null, spark: fit(t.spark ?? [], SPARK) };
  }
  const state = {
    version,
    seq,
    now,
    server,
    gpus: snapshot.gpus ?? [],
    step,
    start,
    points,
    servers: snapshot.servers ?? [],
    sparks: new Map(),
    facts: snapshot.facts ?? {},
    sources: snapshot.sources ?? {},
    tiles,
    panels,
    rules: snapshot.rules ?? [],
    annotations: snapshot.annotations ?? [],
    partial: snapshot.partial === true,
    requests: snapshot.requests ?? [],
    running: snapshot.running ?? [],
  };
  noteServers(state, true);
  return state;
}

/**
 * Takes a frame. False: frames are missing before it, and only a new snapshot
 * helps.
 * @param {State} state
 * @param {Frame} frame
 */
export function applyFrame(state, frame) {
  // After a reconnection the last frame may come again.
  if (frame.seq <= state.seq) return true;
  if (frame.seq !== state.seq + 1) return false;
  const before = state.now;
  state.seq = frame.seq;
  state.now = frame.now;
  const index = advance(state, frame.bucket);
  if (index >= 0) {
    for (const [id, list] of Object.entries(frame.panels ?? {})) setPanel(state, id, list ?? [], index);
  }
  const window = state.step * state.points;
  const turned = Math.floor(frame.now / (window / SPARK)) - Math.floor(before / (window / SPARK));
  for (const [id, t] of Object.entries(frame.tiles ?? {})) setTile(state, id, t, turned);
  if (frame.facts) state.facts = frame.facts;
  if (frame.sources) state.sources = frame.sources;
  if (frame.servers) {
    state.servers = frame.servers;
    noteServers(state, turned > 0);
  }
  if (frame.rules) state.rules = frame.rules;
  if (frame.annotations) state.annotations = frame.annotations;
  if (frame.requests?.length) addRequests(state, frame.requests);
  state.running = frame.running ?? [];
  return true;
}

/**
 * Moves the window so that it has the bucket, and returns the bucket's index.
 * @param {State} state
 * @param {number} bucket
 */
function advance(state, bucket) {
  const index = Math.round((bucket - state.start) / state.step);
  const over = index - state.points + 1;
  if (over <= 0) return index;
  state.start += over * state.step;
  for (const list of state.panels.values()) {
    for (const [key, s] of list) {
      shift(s.values, over, state.points);
      if (s.low) shift(s.low, over, state.points);
      if (s.high) shift(s.high, over, state.points);
      if (s.values.every((v) => v === null)) list.delete(key);
    }
  }
  return state.points - 1;
}

/** @param {Values} values @param {number} n @param {number} length */
function shift(values, n, length) {
  values.splice(0, Math.min(n, values.length));
  while (values.length < length) values.push(null);
}

/** @param {Values} values @param {number} length */
function fit(values, length) {
  const list = values.slice(-length).map((v) => v ?? null);
  while (list.length < length) list.push(null);
  return list;
}

/**
 * @param {State} state
 * @param {string} id
 * @param {FrameSeries[]} list
 * @param {number} index
 */
function setPanel(state, id, list, index) {
  let panel = state.panels.get(id);
  if (!panel) {
    panel = new Map();
    state.panels.set(id, panel);
  }
  for (const f of list) {
    let s = panel.get(f.key);
    // What is taken back, and was not known here.
    if (!s && f.value == null) continue;
    if (!s) {
      s = {
        key: f.key,
        name: f.name ?? f.key,
        query: f.query ?? 0,
        labels: f.labels ?? {},
        values: Array(state.points).fill(null),
        low: null,
        high: null,
      };
      panel.set(f.key, s);
    }
    s.values[index] = f.value ?? null;
    if (f.low != null && f.high != null) {
      s.low ??= s.values.slice();
      s.high ??= s.values.slice();
    }
    if (s.low && s.high) {
      s.low[index] = f.low ?? f.value ?? null;
      s.high[index] = f.high ?? f.value ?? null;
    }
  }
}

/**
 * @param {State} state
 * @param {string} id
 * @param {TileData} data
 * @param {number} turned how many points of the sparkline have begun
 */
function setTile(state, id, data, turned) {
  const spark = state.tiles[id]?.spark ?? Array(SPARK).fill(null);
  shift(spark, Math.max(0, turned), SPARK);
  spark[SPARK - 1] = data.value ?? null;
  state.tiles[id] = { value: data.value ?? null, second: data.second ?? null, spark };
}

/**
 * Servers come with their values of now; what was before, a snapshot may have, and
 * it is kept here.
 * @param {State} state
 * @param {boolean} turned
 */
function noteServers(state, turned) {
  for (const server of state.servers) {
    for (const [column, spark] of Object.entries(server.sparks ?? {})) {
      state.sparks.set(`${server.id} ${column}`, spark.slice(-SPARK));
    }
    for (const [column, value] of Object.entries(server.values)) {
      if (typeof value !== "number") continue;
      const key = `${server.id} ${column}`;
      let spark = state.sparks.get(key);
      // The snapshot's ends with the value of now.
      if (server.sparks?.[column]) continue;
      if (!spark) {
        spark = [];
        state.sparks.set(key, spark);
      }
      if (turned || spark.length === 0) spark.push(value);
      else spark[spark.length - 1] = value;
      if (spark.length > SPARK) spark.shift();
    }
  }
}

/** @param {State} state @param {RequestData[]} ended */
function addRequests(state, ended) {
  const known = new Set(ended.map((r) => r.id));
  const all = [...ended, ...state.requests.filter((r) => !known.has(r.id))];
  // What the client saw of a request is the wait on the server's row of it.
  const byId = new Map(all.map((r) => [r.id, r]));
  const hidden = new Set();
  for (const r of ended) {
    const other = r.joined ? byId.get(r.joined) : undefined;
    if (!other) continue;
    const [client, own] = r.client ? [r, other] : [other, r];
    hidden.add(client.id);
    own.wait ??= client.wait;
  }
  state.requests = all
    .filter((r) => !hidden.has(r.id))
    .sort((a, b) => b.end - a.end)
    .slice(0, REQUESTS);
}

/**
 * @typedef {object} Statistics
 * @property {number | null} last
 * @property {number | null} min
 * @property {number | null} mean
 * @property {number | null} p50
 * @property {number | null} max
 * @property {number | null} p95
 */

/**
 * Of the buckets from first to last. The least and the greatest are those within
 * buckets, not of their means.
 * @param {{values: Values, low?: Values | null, high?: Values | null}} series
 * @param {number} [first]
 * @param {number} [last]
 * @returns {Statistics}
 */
export function statistics(series, first = 0, last = series.values.length - 1) {
  const { values, low, high } = series;
  /** @type {number[]} */
  const seen = [];
  let min = Infinity;
  let max = -Infinity;
  let sum = 0;
  for (let i = Math.max(0, first); i <= Math.min(last, values.length - 1); i++) {
    const v = values[i];
    if (v == null) continue;
    seen.push(v);
    sum += v;
    min = Math.min(min, low?.[i] ?? v);
    max = Math.max(max, high?.[i] ?? v);
  }
  if (seen.length === 0) return { last: null, min: null, mean: null, p50: null, max: null, p95: null };
  const end = seen[seen.length - 1];
  seen.sort((a, b) => a - b);
  return { last: end, min, mean: sum / seen.length, p50: quantile(seen, 0.5), max, p95: quantile(seen, 0.95) };
}

/** Of sorted values, between the two nearest. @param {number[]} sorted @param {number} q */
function quantile(sorted, q) {
  const at = (sorted.length - 1) * q;
  const below = Math.floor(at);
  const next = sorted[Math.min(below + 1, sorted.length - 1)];
  return sorted[below] + (next - sorted[below]) * (at - below);
}

/** @param {Map<string, Series> | undefined} panel */
export function hasData(panel) {
  if (!panel) return false;
  for (const s of panel.values()) if (s.values.some((v) => v !== null)) return true;
  return false;
}

/**
 * What holds the server back, the most important first: those of the server, and
 * those of no server in particular.
 * @param {Rule[]} rules
 * @param {string} kind
 * @param {string} server empty: of all
 */
export function rulesOf(rules, kind, server) {
  const weight = /** @type {Record<string, number>} */ ({ critical: 0, warning: 1, info: 2 });
  return rules
    .filter((r) => r.kind === kind && (!server || !r.instance || r.instance === server))
    .sort(
      (a, b) => a.priority - b.priority || (weight[a.severity] ?? 3) - (weight[b.severity] ?? 3) || a.since - b.since,
    );
}

/**
 * What does not deliver, with the panels that are missing for it.
 * @param {Catalogue} catalogue
 * @param {State} state
 */
export function missingSources(catalogue, state) {
  /** @type {Map<string, Panel[]>} */
  const missing = new Map();
  /** @type {Panel[]} */
  const quiet = [];
  for (const p of catalogue.panels ?? []) {
    if (hasData(state.panels.get(p.id))) continue;
    const sources = p.sources ?? [];
    if (sources.length === 0 || sources.some((s) => state.sources[s])) {
      quiet.push(p);
      continue;
    }
    const list = missing.get(sources[0]) ?? [];
    list.push(p);
    missing.set(sources[0], list);
  }
  const sources = (catalogue.sources ?? [])
    .filter((s) => missing.has(s.id))
    .map((source) => ({ source, panels: /** @type {Panel[]} */ (missing.get(source.id)) }));
  return { sources, quiet };
}
