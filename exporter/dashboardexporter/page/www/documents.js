// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// What the commands of llamaload find out with more than one run: `--repeat`, saturate,
// sweep, matrix and compare. Their JSON is in docs/load.md.

import { text } from "#page/units.js";
import { html, nothing } from "#page/vendor/lit-html.js";

/** @typedef {any} Document */
/** @typedef {{mean: number, low: number | null, high: number | null, runs: number}} Estimate */
/** How one run is drawn. @typedef {(report: any) => unknown} DrawRun */

/** @param {Document} d @returns {"run" | "set" | "saturate" | "grid" | "compare"} */
export function kindOf(d) {
  if (d.llamaload === "compare") return "compare";
  if (d.cells) return "grid";
  // null before the first one has ended
  if ("trials" in d) return "saturate";
  return d.runs ? "set" : "run";
}

/** @type {Record<string, string>} */
const TITLES = { run: "Run", set: "Repeated runs", saturate: "The server's limit", compare: "A and B" };

/** @param {Document} d */
export const titleOf = (d) =>
  d.cells ? (d.llamaload === "matrix" ? "Flags of the server" : "Loads") : TITLES[kindOf(d)];

/** The unit of a figure by its name. @param {string} figure */
export function unitOf(figure) {
  if (figure === "requests_per_second") return "requests/s";
  if (figure === "output_tokens_per_second") return "tokens/s";
  if (figure.endsWith(")")) return "s";
  return "ratio";
}

/** @type {Record<string, string>} */
const WORDS = {
  requests_per_second: "requests",
  output_tokens_per_second: "output tokens",
  error_rate: "failed",
  drop_rate: "dropped",
  cache_hit_rate: "cache hits",
  goodput: "within the objective",
  ttft: "time to first token",
  tpot: "time per token",
  itl: "between chunks",
  e2e: "whole request",
  lag: "sent late by",
};

/** Such as "time to first token, P95". @param {string} figure */
export function nameOfFigure(figure) {
  const [, statistic, of] = /^(.*)\((.*)\)$/.exec(figure) ?? [];
  if (!of) return WORDS[figure] ?? figure;
  return `${WORDS[of] ?? of}, ${statistic.replace(/^p/, "P")}`;
}

/** Those that tell the most in one line. */
const BRIEF = [
  "requests_per_second",
  "output_tokens_per_second",
  "p50(ttft)",
  "p95(ttft)",
  "p50(tpot)",
  "p50(e2e)",
  "p95(e2e)",
  "cache_hit_rate",
];

/**
 * @param {string} caption
 * @param {string[]} heading the first column names the row
 * @param {unknown[][]} rows
 * @param {number} [words] how many of the first columns are words, not numbers
 */
function table(caption, heading, rows, words = 1) {
  const kind = (/** @type {number} */ i) => (i < words || i === heading.indexOf("note") ? "" : "number");
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}><table>
    <caption class="unseen">${caption}</caption>
    <thead><tr>${heading.map((h, i) => html`<th scope="col" class=${kind(i)}>${h}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr><th scope="row">${row[0]}</th>${row.slice(1).map((v, i) => html`<td class=${kind(i + 1)}>${v}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

/** @param {[string, unknown][]} all */
const facts = (all) => html`<dl>${all.filter(([, v]) => v).map(([k, v]) => html`<dt>${k}</dt><dd>${v}</dd>`)}</dl>`;

/** @param {any[]} runs @param {DrawRun} run @param {string} [of] */
const details = (runs, run, of) =>
  (runs ?? []).map(
    (r, i) =>
      html`<details><summary>${of ? `${of}, run` : "Run"} ${i + 1}: ${r.run?.ended}</summary>${run(r)}</details>`,
  );

/** A mean with what it may be off by. @param {Estimate | undefined} e @param {string} unit */
function estimate(e, unit) {
  if (!e) return "–";
  const half = e.low === null || e.high === null || !e.mean ? null : (e.high - e.low) / 2 / Math.abs(e.mean);
  return half === null || unit === "ratio" ? text(e.mean, unit) : `${text(e.mean, unit)} ±${text(half, "ratio")}`;
}

/** The note of a report, without what is said before it. @param {any} r */
export const reasonOf = (r) => r.generator.note.replace(/^GENERATOR WAS THE BOTTLENECK: /, "");

/** What is said first if it holds: then the figures are not the server's. @param {any[]} runs */
function limited(runs) {
  const all = runs.filter((r) => r.generator?.limited);
  if (!all.length) return nothing;
  return html`<p class="problem">The generator was the bottleneck in ${all.length} of ${runs.length} runs, such as: ${reasonOf(all[0])}</p>`;
}

/** @param {Document} d @param {DrawRun} run */
function setView(d, run) {
  const first = d.runs[0];
  const precise = d.precise === undefined ? "" : d.precise ? ": reached" : ": not reached";
  return html`${limited(d.runs)}
    ${facts([
      ["server", first?.run?.url],
      ["schedule", first?.run?.schedule],
      [
        "workload",
        [first?.workload?.endpoint, first?.workload?.model, first?.workload?.prompts].filter(Boolean).join(", "),
      ],
      ["runs", `${d.runs.length}, wanted ${d.rule}${precise}`],
    ])}
    ${table(
      "Means over runs",
      ["over runs", "mean", `${text(d.level, "ratio")} interval from`, "to", "runs"],
      Object.entries(d.figures).map(([name, e]) => {
        const unit = unitOf(name);
        return [nameOfFigure(name), text(e.mean, unit), text(e.low, unit), text(e.high, unit), e.runs];
      }),
    )}
    ${details(d.runs, run)}`;
}

/** @param {{users?: number, rate?: number}} pace */
const load = (pace) =>
  pace.users ? `${pace.users} ${pace.users === 1 ? "user" : "users"}` : text(pace.rate, "requests/s");

/** @param {Document} d */
function saturationView(d) {
  const share = text(d.share, "ratio");
  const limit =
    d.limit_requests_per_second === null
      ? `none: not even at ${text(d.beyond_requests_per_second, "requests/s")} did ${share} of the requests meet the objective`
      : `${text(d.limit_requests_per_second, "requests/s")}: ${share} of the requests meet the objective, at ${text(d.beyond_requests_per_second, "requests/s")} they do not`;
  return html`${facts([
    ["server", d.url],
    ["objective", d.objective],
    // A search that was interrupted has no ceiling yet.
    ["limit", d.beyond_requests_per_second ? limit : "not found: the search ended early"],
    [
      "ceiling",
      d.ceiling_requests_per_second
        ? `${text(d.ceiling_requests_per_second, "requests/s")}, ${text(d.ceiling_output_tokens_per_second, "tokens/s")} with ${load(d.ceiling)}`
        : "",
    ],
  ])}
    ${table(
      "Trials",
      ["load", "done", "first token, P50", "first token, P95", "per token, P95", "requests", "failed", "note"],
      (d.trials ?? []).map((/** @type {any} */ t) => [
        load(t),
        text(t.requests_per_second, "requests/s"),
        text(t.ttft?.p50, "s"),
        text(t.ttft?.p95, "s"),
        text(t.tpot?.p95, "s"),
        t.requests?.due,
        t.requests?.error,
        t.rate && t.met ? "met" : (t.why ?? ""),
      ]),
    )}`;
}

/** @param {Document} d @param {DrawRun} run */
function gridView(d, run) {
  const axes = Object.keys(d.cells[0]?.settings ?? {});
  const has = BRIEF.filter((f) => d.cells.some((/** @type {any} */ c) => c.figures?.[f]));
  const servers = d.cells.some((/** @type {any} */ c) => c.server);
  const runs = d.cells.flatMap((/** @type {any} */ c) => c.runs ?? []);
  const measured = (/** @type {string} */ f) => d.cells.filter((/** @type {any} */ c) => c.figures?.[f]).length;
  // A mark on all would say nothing.
  const marked = has.filter((f) => d.may_be_best?.[f] && d.may_be_best[f].length < measured(f));
  const rows = d.cells.map((/** @type {any} */ c, /** @type {number} */ i) => [
    ...axes.map((a) => c.settings[a]),
    (c.runs ?? []).filter((/** @type {any} */ r) => r.run?.ended === "done").length,
    ...has.map(
      (f) => estimate(c.figures?.[f], unitOf(f)) + (marked.includes(f) && d.may_be_best[f].includes(i) ? " *" : ""),
    ),
    ...(servers ? [text(c.server?.load_seconds, "s"), text(c.server?.peak_memory_bytes || null, "bytes")] : []),
    c.failed ?? (c.precise === false ? "not as precise as asked for" : ""),
  ]);
  // A whole alternative names its flags.
  const name = (/** @type {any} */ c) =>
    axes.map((a) => (c.settings[a].startsWith("-") ? c.settings[a] : `${a} ${c.settings[a]}`)).join(", ");
  return html`${limited(runs)}
    ${facts([
      ["server", d.command?.join(" ") ?? runs[0]?.run?.url],
      ["workload", [runs[0]?.workload?.endpoint, runs[0]?.workload?.model].filter(Boolean).join(", ")],
      ["runs", `for each row ${d.rule}`],
    ])}
    ${table(
      titleOf(d),
      [
        ...axes,
        "runs",
        ...has.map((f) => nameOfFigure(f).replace(/^time (?:to )?|^whole /, "")),
        ...(servers ? ["load time", "memory"] : []),
        "note",
      ],
      rows,
      axes.length,
    )}
    ${marked.length ? html`<p>* may be the best of its column: rows without it are shown to be worse than another.</p>` : nothing}
    ${d.cells
      .filter((/** @type {any} */ c) => c.log)
      .map((/** @type {any} */ c) => html`<h3>The server's log, ${name(c)}</h3><pre>${c.log}</pre>`)}
    ${d.cells.map((/** @type {any} */ c) => details(c.runs, run, name(c)))}`;
}

/** @param {Document} d @param {DrawRun} run */
function compareView(d, run) {
  const sides = /** @type {[string, any][]} */ ([
    ["A", d.a],
    ["B", d.b],
  ]);
  return html`${limited(sides.flatMap(([, s]) => s.runs ?? [s]))}
    ${table(
      "Differences",
      ["time", "A", "B", "B − A", "99 % interval from", "to", "note"],
      d.differences.map((/** @type {any} */ x) => {
        const by = x.b - x.a;
        const share = text(Math.abs(by) / x.a, "ratio");
        return [
          nameOfFigure(`${x.statistic}(${x.metric})`),
          text(x.a, "s"),
          text(x.b, "s"),
          `${by > 0 ? "+" : ""}${text(by, "s")}`,
          text(x.low, "s"),
          text(x.high, "s"),
          x.shown
            ? html`<span class=${by > 0 ? "worse" : "better"}>${share} ${by > 0 ? "slower" : "faster"}</span>`
            : "no difference shown",
        ];
      }),
    )}
    <p>${d.over}</p>
    ${sides.map(([name, s]) => html`<h3>${name}</h3>${s.runs ? setView(s, run) : run(s)}`)}`;
}

/** @param {Document} d @param {DrawRun} run */
export function documentView(d, run) {
  switch (kindOf(d)) {
    case "set":
      return setView(d, run);
    case "saturate":
      return saturationView(d);
    case "grid":
      return gridView(d, run);
    case "compare":
      return compareView(d, run);
  }
  return run(d);
}
