// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Numbers as people read them: three significant digits and a unit.

/** @type {[number, string][]} */
const SI = [
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
  [1, ""],
  [1e-3, "m"],
  [1e-6, "µ"],
  [1e-9, "n"],
];

/**
 * How a unit of the catalogue is written. factor multiplies the value; prefixes
 * says which of SI's are used.
 * @type {Record<string, {factor?: number, prefixes: string[], text: string}>}
 */
const UNITS = {
  "tokens/s": { prefixes: ["", "k", "M"], text: "tok/s" },
  "requests/s": { prefixes: ["", "k"], text: "req/s" },
  requests: { prefixes: ["", "k", "M"], text: "" },
  s: { prefixes: ["", "m", "µ", "n"], text: "s" },
  "s/token": { prefixes: ["", "m", "µ"], text: "s/tok" },
  tokens: { prefixes: ["", "k", "M", "G"], text: "tok" },
  ratio: { factor: 100, prefixes: [""], text: "%" },
  bytes: { prefixes: ["", "k", "M", "G", "T"], text: "B" },
  "bytes/s": { prefixes: ["", "k", "M", "G", "T"], text: "B/s" },
  celsius: { prefixes: [""], text: "°C" },
  watts: { prefixes: ["", "k"], text: "W" },
  "joules/token": { prefixes: ["", "m", "k"], text: "J/tok" },
  hertz: { prefixes: ["M", "G"], text: "Hz" },
  count: { prefixes: ["", "k", "M", "G"], text: "" },
};

/** @param {string | undefined} unit */
const of = (unit) => UNITS[unit ?? ""] ?? { prefixes: ["", "k", "M", "G"], text: unit ?? "" };

/** What a title says of a unit, without a prefix. @param {string} unit */
export const unitName = (unit) =>
  ({ requests: "requests", count: "", tokens: "tokens", "s/token": "s per token" })[unit] ?? of(unit).text;

/**
 * The largest allowed prefix below the value.
 * @param {number} value
 * @param {string[]} prefixes
 * @returns {[number, string]}
 */
function prefix(value, prefixes) {
  const size = Math.abs(value);
  const allowed = SI.filter(([, p]) => prefixes.includes(p));
  // 999.6 would be written as 1000.
  const fit = allowed.find(([factor]) => size >= factor * 0.9995);
  if (fit) return fit;
  return size === 0 ? (allowed.find(([, p]) => p === "") ?? allowed[0]) : allowed[allowed.length - 1];
}

/** Units of what is counted: 4 slots, not 4.00. */
const WHOLE = new Set(["requests", "tokens", "count"]);

/**
 * Three significant digits, without an exponent.
 * @param {number} value
 * @param {boolean} [whole] whether a whole number stands without decimals
 */
export function digits(value, whole = false) {
  if (value === 0 || (whole && Number.isInteger(value) && Math.abs(value) < 1000)) return String(value);
  const size = Math.abs(value);
  if (size >= 999.5) return value.toFixed(0);
  if (size < 0.0005) return "0";
  const before = Math.max(0, Math.floor(Math.log10(Number(size.toPrecision(3)))) + 1);
  return value.toFixed(Math.min(3, Math.max(0, 3 - Math.max(before, size < 1 ? 0 : 1))));
}

/**
 * @param {number | null | undefined} value
 * @param {string | undefined} unit
 * @returns {{value: string, unit: string}}
 */
export function format(value, unit) {
  if (value == null || !Number.isFinite(value)) return { value: "–", unit: "" };
  if (unit === "s" && Math.abs(value) >= 99.95) return { value: duration(value), unit: "" };
  const u = of(unit);
  const v = value * (u.factor ?? 1);
  const [factor, p] = prefix(v, u.prefixes);
  const number = digits(v / factor, WHOLE.has(unit ?? "")).replace("-", "−");
  // 1.96 k tok/s: a prefix belongs to a sign, not to a word.
  const word = p && /^(tok|req)/.test(u.text);
  return { value: number, unit: word ? `${p} ${u.text}` : p + u.text };
}

/**
 * @param {number | null | undefined} value
 * @param {string | undefined} unit
 */
export function text(value, unit) {
  const f = format(value, unit);
  if (!f.unit) return f.value;
  return f.unit === "%" ? `${f.value} %` : `${f.value} ${f.unit}`;
}

/**
 * Where a title has said what is counted: 1.96 k for 1960 tok/s, 29.6 ms for
 * 0.0296 s/tok.
 * @param {number | null | undefined} value
 * @param {string} unit
 */
export function brief(value, unit) {
  const f = format(value, unit);
  const [p, u] = split(f.unit, of(unit).text);
  const short = p + (COUNTED[u] ?? u);
  return short ? `${f.value} ${short}` : f.value;
}

/** Units of which a title says enough. @type {Record<string, string>} */
const COUNTED = { tok: "", "tok/s": "", "req/s": "", "s/tok": "s", "J/tok": "J", Hz: "", "B/s": "" };

/** @param {string} unit @param {string} plain @returns {[string, string]} prefix and rest */
const split = (unit, plain) =>
  plain && unit.endsWith(plain) ? [unit.slice(0, unit.length - plain.length).trim(), plain] : [unit, ""];

/** Such as 3 h 12 min. @param {number} seconds */
export function duration(seconds) {
  const s = Math.round(seconds);
  const parts = [
    [Math.floor(s / 86400), "d"],
    [Math.floor((s % 86400) / 3600), "h"],
    [Math.floor((s % 3600) / 60), "min"],
    [s % 60, "s"],
  ];
  const first = parts.findIndex(([n]) => n !== 0);
  if (first < 0) return "0 s";
  return parts
    .slice(first, first + 2)
    .filter(([n]) => n !== 0)
    .map(([n, u]) => `${n} ${u}`)
    .join(" ");
}

/**
 * The labels of an axis: all with one prefix, and with as many decimals as they
 * need to differ.
 * @param {number[]} splits
 * @param {string} unit
 */
export function axisLabels(splits, unit) {
  const u = of(unit);
  const scaled = splits.map((v) => v * (u.factor ?? 1));
  const top = Math.max(...scaled.map(Math.abs), 0);
  const minutes = unit === "s" && top >= 120;
  if (minutes) return splits.map((v) => (v === 0 ? "0" : duration(v)));
  const [factor, p] = prefix(top, u.prefixes);
  const steps = scaled.map((v) => v / factor);
  let decimals = 0;
  while (decimals < 3 && steps.some((v) => Math.abs(v - Number(v.toFixed(decimals))) > 1e-9)) decimals++;
  // What the panel's title says need not be said again at each line.
  const short = p + (COUNTED[u.text] ?? u.text);
  const suffix = { "%": " %", "": "" }[short] ?? ` ${short}`;
  return steps.map((v) => (v === 0 ? "0" : v.toFixed(decimals) + suffix));
}

const pad = (/** @type {number} */ n) => String(n).padStart(2, "0");

/** The time of day, here. @param {number} ms */
export function clock(ms) {
  const d = new Date(ms);
  return `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`;
}

/** With the day where that is not today. @param {number} ms @param {number} now */
export function moment(ms, now) {
  const d = new Date(ms);
  if (d.toDateString() === new Date(now).toDateString()) return clock(ms);
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())} ${clock(ms)}`;
}

/** Such as 5m, of a window. @param {number} seconds */
export function windowName(seconds) {
  if (seconds % 3600 === 0) return `${seconds / 3600}h`;
  if (seconds % 60 === 0) return `${seconds / 60}m`;
  return `${seconds}s`;
}
