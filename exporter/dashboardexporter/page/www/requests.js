// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// The last requests, and one of them in full.

import { moment, text } from "#page/units.js";
import { html, nothing, svg } from "#page/vendor/lit-html.js";

/** Seconds in which tokens came, from the first to the end. @param {RequestData} r */
export function decoding(r) {
  return r.first === null || r.generated < 2 ? null : (r.end - r.first) / 1000 / (r.generated - 1);
}

/** When the server began with it. @param {RequestData} r */
export const beganAt = (r) => r.began ?? r.start;

/** Tokens of the prompt a second; what was cached cost nothing. @param {RequestData} r */
export function promptRate(r) {
  const tokens = r.prompt - r.cached;
  const seconds = r.proxied ? (r.first === null ? null : (r.first - beganAt(r)) / 1000) : r.ttft;
  return seconds === null || seconds <= 0 || tokens <= 0 ? null : tokens / seconds;
}

/** Those of the load generator and of a proxy may have none. @param {RequestData} r */
const slotOf = (r) => (r.slot === null || r.slot < 0 ? null : r.slot);

/** @param {RequestData} r */
export const titleOf = (r) => (r.task < 0 ? "Request" : `Request of task ${r.task}`);

/** @param {RequestData} r */
function seenBy(r) {
  if (r.client) return "the load generator";
  if (!r.proxied) return "the server";
  return slotOf(r) === null ? "the proxy" : "the proxy, and the server's log";
}

/** @param {RequestData} r */
export const cacheShare = (r) => (r.prompt > 0 ? r.cached / r.prompt : null);

/** @param {RequestData} r */
const acceptance = (r) => (r.drafted && r.accepted !== null ? r.accepted / r.drafted : null);

/**
 * @param {import("#page/store.js").State} state
 * @param {boolean} all
 * @param {() => void} more
 * @param {(r: RequestData) => void} open
 * @param {string} csv the address of the list as CSV; empty: none
 */
export function requestsView(state, all, more, open, csv) {
  const list = state.requests;
  if (list.length === 0) return nothing;
  const drafted = list.some((r) => r.drafted !== null);
  const waited = list.some((r) => typeof r.wait === "number");
  return html`<h2>Recent requests ${csv ? html`<a class="quiet" href=${csv} download="requests.csv">CSV</a>` : nothing}</h2>
    <div class="scroll" tabindex="0" role="region" aria-label="Table of recent requests">
      <table>
        <caption class="unseen">Recent requests, the newest first</caption>
        <thead><tr>
          <th scope="col">ended</th><th scope="col">outcome</th><th scope="col" class="number">slot</th><th scope="col" class="number">prompt</th>
          <th scope="col" class="number">cached</th><th scope="col" class="number">generated</th>${drafted ? html`<th scope="col" class="number">accepted</th>` : nothing}
          ${waited ? html`<th scope="col" class="number">wait</th>` : nothing}<th scope="col" class="number">first token</th><th scope="col" class="number">per token</th><th scope="col" class="number">duration</th>
          <th scope="col"><span class="unseen">details</span></th>
        </tr></thead>
        <tbody>${list.slice(0, all ? list.length : 12).map(
          (r) => html`<tr @click=${() => open(r)}>
            <td>${moment(r.end, state.now)}</td>
            <td><span class="outcome ${r.outcome}">${r.outcome}</span></td>
            <td class="number">${slotOf(r) ?? (r.client ? "client" : "–")}</td>
            <td class="number">${text(r.prompt, "tokens")}</td>
            <td class="number">${text(cacheShare(r), "ratio")}</td>
            <td class="number">${text(r.generated, "tokens")}</td>
            ${drafted ? html`<td class="number">${text(acceptance(r), "ratio")}</td>` : nothing}
            ${waited ? html`<td class="number">${text(r.wait ?? null, "s")}</td>` : nothing}
            <td class="number">${text(r.ttft, "s")}</td>
            <td class="number">${text(decoding(r), "s")}</td>
            <td class="number">${text(r.duration, "s")}</td>
            <td><button class="quiet" aria-label="Details: ${titleOf(r)}">▸</button></td>
          </tr>`,
        )}</tbody>
      </table>
    </div>
    ${
      list.length > 12
        ? html`<button class="quiet" @click=${more}>${all ? "fewer" : `all ${list.length}`}</button>`
        : nothing
    }`;
}

/**
 * @param {RequestData} r
 * @param {number} now
 * @param {(text: string) => void} copy
 */
export function requestView(r, now, copy) {
  const ms = r.end - r.start;
  const first = r.first === null ? r.end : r.first;
  const began = Math.min(beganAt(r), first);
  const share = (/** @type {number} */ from, /** @type {number} */ to) => (ms > 0 ? ((to - from) / ms) * 100 : 0);
  /** @type {[string, string, number, number][]} */
  const parts = [
    ["queue", "waited", r.start, began],
    ["prompt", "prompt", began, first],
    ["generating", "answer", first, r.end],
  ];
  /** @type {[string, unknown][]} */
  const facts = [
    ["outcome", html`<span class="outcome ${r.outcome}">${r.outcome}</span>`],
    ["error", r.error],
    ["server", r.server],
    ["model", r.model],
    ["client", r.client_name ?? ""],
    ["slot and task", slotOf(r) === null ? "" : `${r.slot}, ${r.task}`],
    ["seen by", seenBy(r)],
    [r.proxied ? "came" : "began", moment(r.start, now)],
    [r.proxied ? "wait for a slot" : "wait and network", r.wait == null ? "" : text(r.wait, "s")],
    ["first token", r.ttft === null ? "" : `after ${text(r.ttft, "s")}`],
    ["ended", moment(r.end, now)],
    ["duration", text(r.duration, "s")],
    ["prompt", `${r.prompt} tokens, ${r.cached} of them cached (${text(cacheShare(r), "ratio")})`],
    ["prompt rate", promptRate(r) === null ? "" : text(promptRate(r), "tokens/s")],
    ["generated", `${r.generated} tokens`],
    ["per token", decoding(r) === null ? "" : text(decoding(r), "s")],
    [
      "drafted",
      r.drafted === null ? "" : `${r.drafted} tokens, ${r.accepted ?? "–"} accepted (${text(acceptance(r), "ratio")})`,
    ],
  ];
  return html`<svg class="times" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">
      ${parts.map(([part, , from, to]) => svg`<rect class=${part} x=${share(r.start, from)} y="0" width=${share(from, to)} height="4"></rect>`)}</svg>
    <p class="keys-of-lanes">${parts
      .filter(([, , from, to]) => to > from)
      .map(([part, words, from, to]) => html`<span class=${part}>${words} ${text((to - from) / 1000, "s")}</span>`)}</p>
    <dl>${facts.filter(([, v]) => v !== "" && v !== null).map(([k, v]) => html`<dt>${k}</dt><dd>${v}</dd>`)}
      ${
        r.trace
          ? html`<dt>trace</dt><dd><code>${r.trace}</code> <button class="quiet" @click=${() => copy(r.trace)}>copy</button></dd>`
          : nothing
      }</dl>`;
}

/** @param {Running} r @param {number} now */
export function runningView(r, now) {
  const total = r.remaining === null ? null : r.generated + r.remaining;
  /** @type {[string, string][]} */
  const facts = [
    ["state", r.state === "prompt" ? "the prompt is processed" : "generates"],
    ["server", r.server],
    ["slot and task", `${r.slot}, ${r.task}`],
    ["began", moment(r.since, now)],
    ["runs for", text((now - r.since) / 1000, "s")],
    ["prompt", `${r.prompt} tokens`],
    ["generated", total === null ? `${r.generated} tokens` : `${r.generated} of at most ${total} tokens`],
    ["context", r.context === null ? "" : r.context <= 1 ? text(r.context, "ratio") : `${r.context} tokens`],
  ];
  return html`${total ? html`<progress aria-label="Generated" max=${total} .value=${r.generated}></progress>` : nothing}
    <dl>${facts.filter(([, v]) => v !== "").map(([k, v]) => html`<dt>${k}</dt><dd>${v}</dd>`)}</dl>`;
}
