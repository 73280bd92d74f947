// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// The report of a load run.

import { documentView, kindOf, reasonOf, titleOf } from "#page/documents.js";
import { text } from "#page/units.js";
import { html, nothing, render } from "#page/vendor/lit-html.js";

/**
 * As `llamaload run --json` writes it; see openapi.yaml of the load generator.
 * @typedef {any} Report
 */

/** @type {[string, (r: Report) => any][]} */
const TIMES = [
  ["time to first token", (r) => r.latency?.ttft],
  ["time per token", (r) => r.latency?.tpot],
  ["between chunks", (r) => r.latency?.itl],
  ["whole request", (r) => r.latency?.e2e],
  ["sent late by", (r) => r.latency?.lag],
  ["waiting for a slot (server)", (r) => r.server?.waiting],
  ["prompt (server)", (r) => r.server?.prompt],
  ["generation (server)", (r) => r.server?.prediction],
];

/**
 * The figures by which two runs are compared. up: more is better.
 * @param {Report} r
 * @returns {{name: string, unit: string, value: number | null, up: boolean | null}[]}
 */
export function figures(r) {
  /** @type {{name: string, unit: string, value: number | null, up: boolean | null}[]} */
  const list = [
    { name: "output tokens", unit: "tokens/s", value: r.rates?.output_tokens ?? null, up: true },
    { name: "input tokens", unit: "tokens/s", value: r.rates?.input_tokens ?? null, up: true },
    { name: "requests", unit: "requests/s", value: r.rates?.requests ?? null, up: true },
  ];
  for (const [name, of] of TIMES.slice(0, 4)) {
    for (const q of ["p50", "p95", "p99"]) {
      list.push({ name: `${name}, ${q.toUpperCase()}`, unit: "s", value: of(r)?.[q] ?? null, up: false });
    }
  }
  list.push(
    { name: "cache hits", unit: "ratio", value: r.tokens?.cache_hit_rate ?? null, up: true },
    { name: "failed", unit: "count", value: r.requests?.error ?? null, up: false },
    { name: "dropped", unit: "count", value: r.requests?.dropped ?? null, up: false },
  );
  if (r.goodput) list.push({ name: "within the objective", unit: "ratio", value: r.goodput.share, up: true });
  if (r.energy) {
    list.push({ name: "energy per token", unit: "joules/token", value: r.energy.joules_per_output_token, up: false });
  }
  return list;
}

/** @param {Report} r */
export function reportView(r) {
  const c = r.requests ?? {};
  /** @type {[string, unknown][]} */
  const facts = [
    ["server", r.run?.url],
    ["started", r.run?.started],
    ["schedule", r.run?.schedule],
    ["ended", r.run?.ended],
    ["workload", [r.workload?.endpoint, r.workload?.model, r.workload?.prompts].filter(Boolean).join(", ")],
    ["requests", `${c.ok} of ${c.due} well, ${c.error} failed, ${c.cancelled} cancelled, ${c.dropped} dropped`],
    [
      "rates",
      `${text(r.rates?.requests, "requests/s")}, ${text(r.rates?.output_tokens, "tokens/s")} generated, ${text(r.rates?.input_tokens, "tokens/s")} of prompts`,
    ],
    ["cache hits", text(r.tokens?.cache_hit_rate, "ratio")],
    ["objective", r.goodput ? `${r.goodput.objective}: met by ${text(r.goodput.share, "ratio")}` : ""],
    [
      "energy",
      r.energy
        ? `${text(r.energy.joules_per_output_token, "joules/token")}, ${text(r.energy.watts, "watts")} on average, ${r.energy.gpus} GPU`
        : (r.no_energy ?? ""),
    ],
    ["server's counters", r.reconciliation?.note ?? r.not_reconciled ?? ""],
    ["generator", r.generator?.note],
  ];
  return html`${r.generator?.limited ? html`<p class="problem">The generator was the bottleneck: ${reasonOf(r)}</p>` : nothing}
    <dl>${facts.filter(([, v]) => v).map(([k, v]) => html`<dt>${k}</dt><dd>${v}</dd>`)}</dl>
    <div class="scroll" tabindex="0" role="region" aria-label="Times">
    <table>
      <caption class="unseen">Times of requests</caption>
      <thead><tr><th scope="col">time</th>${["P50", "P95", "P99", "max", "mean"].map((h) => html`<th scope="col" class="number">${h}</th>`)}<th scope="col" class="number">count</th></tr></thead>
      <tbody>${TIMES.filter(([, of]) => of(r)?.count > 0).map(([name, of]) => {
        const h = of(r);
        return html`<tr><th scope="row">${name}</th>${[h.p50, h.p95, h.p99, h.max, h.mean].map((v) => html`<td class="number">${text(v, "s")}</td>`)}<td class="number">${h.count}</td></tr>`;
      })}</tbody>
    </table></div>
    ${
      Object.keys(r.errors ?? {}).length
        ? html`<h3>Errors</h3><dl>${Object.entries(r.errors).map(([k, n]) => html`<dt>${n} × ${k}</dt><dd>${r.error_examples?.[k] ?? ""}</dd>`)}</dl>`
        : nothing
    }`;
}

/**
 * Two runs, or windows, side by side.
 * @param {{name: string, unit: string, a: number | null, b: number | null, up: boolean | null}[]} rows
 * @param {string} caption
 */
export function differenceView(rows, caption) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}><table>
    <caption class="unseen">${caption}</caption>
    <thead><tr><th scope="col">figure</th><th scope="col" class="number">A</th><th scope="col" class="number">B</th>
      <th scope="col" class="number">B − A</th><th scope="col" class="number">change</th></tr></thead>
    <tbody>${rows
      .filter((r) => r.a !== null || r.b !== null)
      .map((r) => {
        const by = r.a === null || r.b === null ? null : r.b - r.a;
        const share = by === null || !r.a ? null : by / Math.abs(r.a);
        // Noise is neither better nor worse.
        const judged =
          r.up === null || share === null || Math.abs(share) < 0.05 ? "" : share > 0 === r.up ? "better" : "worse";
        const sign = by !== null && by > 0 ? "+" : "";
        return html`<tr><th scope="row">${r.name}</th><td class="number">${text(r.a, r.unit)}</td><td class="number">${text(r.b, r.unit)}</td>
          <td class="number">${sign}${text(by, r.unit)}</td>
          <td class="number ${judged}">${share === null ? "–" : `${sign}${text(share, "ratio")}`}${judged ? html` <span>${judged}</span>` : nothing}</td></tr>`;
      })}</tbody></table></div>`;
}

/** A file of `llamaload --html`: what one or more commands found out. @param {any} data */
export function reportPage(data) {
  /** @type {any[]} */
  const reports = data.reports ?? (data.report ? [data.report] : []);
  const main = /** @type {HTMLElement} */ (document.getElementById("requests"));
  document.title = "Load report";
  for (const id of ["header", "tiles"]) /** @type {HTMLElement} */ (document.getElementById(id)).hidden = true;
  render(
    html`<h2>Load report</h2>
      ${
        reports.length === 2 && reports.every((r) => kindOf(r) === "run")
          ? html`<div class="run"><h3>Run 1 (A) and run 2 (B)</h3>${differenceView(
              figures(reports[0]).map((f, i) => ({ ...f, a: f.value, b: figures(reports[1])[i]?.value ?? null })),
              "Differences",
            )}</div>`
          : nothing
      }
      ${reports.map((r, i) => html`<div class="run"><h3>${reports.length > 1 ? `${titleOf(r)} ${i + 1}` : titleOf(r)}</h3>${documentView(r, reportView)}</div>`)}`,
    main,
  );
}
