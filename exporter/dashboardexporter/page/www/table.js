// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// The statistics of all series, and all values as CSV.

import { shortName } from "#page/names.js";
import { hasData, statistics } from "#page/store.js";
import { text } from "#page/units.js";
import { html } from "#page/vendor/lit-html.js";

/** @typedef {import("#page/store.js").State} State */

/**
 * @param {Catalogue} catalogue
 * @param {State} state
 * @param {[number, number]} range
 */
export function rows(catalogue, state, range) {
  const first = Math.max(0, Math.floor((range[0] - state.start) / state.step));
  const last = Math.ceil((range[1] - state.start) / state.step) - 1;
  const list = [];
  for (const panel of catalogue.panels ?? []) {
    const data = state.panels.get(panel.id);
    if (!data || !hasData(data)) continue;
    for (const series of data.values()) list.push({ panel, series, ...statistics(series, first, last) });
  }
  return list;
}

/** A cell of CSV; what a spreadsheet would run is kept as text. @param {unknown} v */
export function cell(v) {
  if (v === null || v === undefined) return "";
  if (typeof v === "number") return String(v);
  let s = String(v);
  if (/^[=+\-@\t\r]/.test(s)) s = `'${s}`;
  return /[",\n\r]/.test(s) ? `"${s.replaceAll('"', '""')}"` : s;
}

/** @param {unknown[][]} table */
const csv = (table) => `${table.map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;

/** @param {ReturnType<typeof rows>} list */
export const statisticsCSV = (list) =>
  csv([
    ["panel", "series", "unit", "mean", "p50", "p95", "min", "max", "last"],
    ...list.map((r) => [r.panel.title, r.series.name, r.panel.unit, r.mean, r.p50, r.p95, r.min, r.max, r.last]),
  ]);

/**
 * One row a bucket, one column a series.
 * @param {Catalogue} catalogue
 * @param {State} state
 */
export function valuesCSV(catalogue, state) {
  const columns = [];
  for (const panel of catalogue.panels ?? []) {
    for (const series of state.panels.get(panel.id)?.values() ?? []) columns.push({ panel, series });
  }
  const table = [["time", ...columns.map((c) => `${c.panel.title}: ${c.series.name} (${c.panel.unit})`)]];
  for (let i = 0; i < state.points; i++) {
    const at = new Date(state.start + i * state.step).toISOString();
    table.push([at, ...columns.map((c) => /** @type {any} */ (c.series.values[i]))]);
  }
  return csv(table);
}

/** @param {string} name @param {string} content */
export function download(name, content) {
  const url = URL.createObjectURL(new Blob([content], { type: "text/csv;charset=utf-8" }));
  const a = document.createElement("a");
  a.href = url;
  a.download = name;
  a.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/**
 * @param {Catalogue} catalogue
 * @param {State} state
 * @param {[number, number]} range
 */
export function statisticsView(catalogue, state, range) {
  const list = rows(catalogue, state, range);
  return html`<p class="actions">
      <button @click=${() => download("statistics.csv", statisticsCSV(list))}>statistics as CSV</button>
      <button @click=${() => download("values.csv", valuesCSV(catalogue, state))}>all values as CSV</button>
    </p>
    <table>
      <caption class="unseen">Statistics of all series</caption>
      <thead><tr><th scope="col">panel</th><th scope="col">series</th><th scope="col" class="number">mean</th>
        <th scope="col" class="number">P50</th><th scope="col" class="number">P95</th><th scope="col" class="number">max</th></tr></thead>
      <tbody>${list.map(
        (r, i) => html`<tr>
          <th scope="row">${list[i - 1]?.panel === r.panel ? html`<span class="unseen">${r.panel.title}</span>` : r.panel.title}</th>
          <td title=${r.series.name}>${shortName(r.series, state.gpus)}</td>
          ${[r.mean, r.p50, r.p95, r.max].map((v) => html`<td class="number">${text(v, r.panel.unit)}</td>`)}
        </tr>`,
      )}</tbody>
    </table>`;
}
