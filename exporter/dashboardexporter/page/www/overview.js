// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// All servers, a row each.

import { stateClass } from "#page/header.js";
import { sparkline } from "#page/spark.js";
import { rulesOf, SPARK } from "#page/store.js";
import { text } from "#page/units.js";
import { html, nothing } from "#page/vendor/lit-html.js";

/**
 * @typedef {object} Order
 * @property {string} column empty: as the servers come
 * @property {boolean} down
 */

const collator = new Intl.Collator("en", { numeric: true });

/**
 * @param {ServerRow[]} servers
 * @param {Order} order
 */
export function sorted(servers, order) {
  if (!order.column) return servers;
  const value = (/** @type {ServerRow} */ s) => (order.column === "id" ? s.id : (s.values[order.column] ?? null));
  return servers.slice().sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    // What is not known is last in both directions.
    if (x === null || y === null) return Number(x === null) - Number(y === null);
    const by = typeof x === "number" && typeof y === "number" ? x - y : collator.compare(String(x), String(y));
    return order.down ? -by : by;
  });
}

/**
 * A router's models are instances below it: host:port/model.
 * @param {string} id
 * @param {ServerRow[]} servers
 */
export function nameOf(id, servers) {
  const slash = id.indexOf("/");
  if (slash < 0) return { name: id, child: false };
  const parent = id.slice(0, slash);
  return servers.some((s) => s.id === parent) ? { name: id.slice(slash + 1), child: true } : { name: id, child: false };
}

/** @param {Values} spark @returns {Values} */
const padded = (spark) => [...Array(Math.max(0, SPARK - spark.length)).fill(null), ...spark];

/** What limits a server, in a word. @param {import("#page/store.js").State} state @param {string} server */
function limitOf(state, server) {
  const [first] = rulesOf(state.rules, "bottleneck", server).filter((r) => r.instance === server);
  if (!first) return html`<td>–</td>`;
  return html`<td class=${first.id === "nothing" ? "muted" : ""} title=${`${first.summary} ${first.cure}`}>${first.id}</td>`;
}

/**
 * @param {Column[]} columns
 * @param {import("#page/store.js").State} state
 * @param {Order} order
 * @param {(column: string) => void} sort
 * @param {(server: string) => string} address
 * @param {(e: Event, server: string) => void} open
 */
export function overviewView(columns, state, order, sort, address, open) {
  const head = (/** @type {string} */ id, /** @type {string} */ title, /** @type {string} */ kind) => html`<th
    scope="col" class=${kind} aria-sort=${order.column === id ? (order.down ? "descending" : "ascending") : nothing}>
    <button @click=${() => sort(id)}>${title}${order.column === id ? (order.down ? " ▾" : " ▴") : ""}</button></th>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Table of servers">
    <table class="servers">
      <caption class="unseen">Servers</caption>
      <thead><tr>${head("id", "Server", "")}<th scope="col">Limited by</th>${columns.map((c) => head(c.id, c.title, c.label ? "" : "number"))}</tr></thead>
      <tbody>${sorted(state.servers, order).map((s) => {
        const { name, child } = order.column ? { name: s.id, child: false } : nameOf(s.id, state.servers);
        return html`<tr class=${child ? "child" : ""}>
          <th scope="row"><a href=${address(s.id)} @click=${(/** @type {Event} */ e) => open(e, s.id)}>${name}</a></th>
          ${limitOf(state, s.id)}
          ${columns.map((c) => {
            const v = s.values[c.id] ?? null;
            if (c.id === "state" && v !== null) {
              return html`<td><span class="health ${stateClass(String(v))}">${v}</span></td>`;
            }
            const said = typeof v === "number" ? text(v, c.unit) : (v ?? "–");
            const spark = c.sparkline ? padded(state.sparks.get(`${s.id} ${c.id}`) ?? []) : [];
            return html`<td class=${c.label ? "" : "number"}>${c.sparkline ? sparkline(spark, 60, 16) : nothing}<span class=${c.sparkline ? "beside" : ""}>${said}</span></td>`;
          })}
        </tr>`;
      })}</tbody>
    </table></div>`;
}
