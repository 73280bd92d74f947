// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// What limits the server, in a sentence, and what is wrong.

import { rulesOf } from "#page/store.js";
import { duration } from "#page/units.js";
import { html, nothing } from "#page/vendor/lit-html.js";

/** @param {number} since @param {number} now */
const age = (since, now) =>
  since > 0 && now - since >= 1000 ? `since ${duration(rounded((now - since) / 1000))}` : "";

/** Seconds are of no interest after the first minute. @param {number} s */
const rounded = (s) => (s < 60 ? s : Math.floor(s / 60) * 60);

/** A link of a rule leads to the documentation; nothing but the web is linked. @param {string} url */
const safe = (url) => (/^https?:\/\//.test(url) ? url : "");

/** @param {Rule} r @param {number} now @param {boolean} named */
function line(r, now, named) {
  return html`<li class=${r.severity || (r.kind === "bottleneck" ? "limit" : "")}>
    <span class="level">${r.severity || "limit"}</span>
    <span class="words">${named && r.instance ? html`<b>${r.instance}</b> ` : nothing}${r.summary}
      ${r.cure ? html`<em>${r.cure}</em>` : nothing}
      ${safe(r.runbook) ? html`<a href=${safe(r.runbook)} rel="noreferrer" target="_blank">runbook</a>` : nothing}</span>
    <span class="age">${age(r.since, now)}</span>
  </li>`;
}

/** So many alerts are shown at once; a fleet may have hundreds. */
const ALERTS = 4;

/**
 * What limits the server. One that does not answer is limited by that alone: the
 * other rules still see its last minutes.
 * @param {import("#page/store.js").State} state
 */
export function limitsOf(state) {
  const answers = (state.facts.state ?? "ok") === "ok";
  return rulesOf(state.rules, "bottleneck", state.server).filter((r) => answers || r.id === "state");
}

/** Whether nothing limits the server. @param {Rule} rule */
const fine = (rule) => rule.id === "nothing";

/**
 * @param {import("#page/store.js").State} state
 * @param {boolean} open whether all that was found is shown
 * @param {() => void} toggle
 * @param {boolean} named rules of several servers
 */
export function verdictView(state, open, toggle, named) {
  const bottlenecks = named ? [] : limitsOf(state);
  const alerts = rulesOf(state.rules, "alert", named ? "" : state.server);
  const [first, ...more] = bottlenecks;
  const shown = open ? [...alerts, ...more] : alerts.slice(0, ALERTS);
  const hidden = alerts.length - Math.min(alerts.length, ALERTS) + more.length;
  const expand = hidden
    ? html`<button class="quiet" aria-expanded=${String(open)} @click=${toggle}>${open ? "▾ less" : `▸ ${hidden} more`}</button>`
    : nothing;
  return html`
    ${
      first
        ? html`<p class="verdict ${fine(first) ? "fine" : "limit"}">
            <span class="words"><strong>${first.summary}</strong> ${first.cure ? html`<span>${first.cure}</span>` : nothing}</span>
            <span class="age">${age(first.since, state.now)}</span>
            ${expand}
          </p>`
        : nothing
    }
    ${shown.length ? html`<ul class="alerts">${shown.map((r) => line(r, state.now, named))}</ul>` : nothing}
    ${first ? nothing : expand}`;
}

/**
 * What a screen reader is told: only what changes is spoken.
 * @param {import("#page/store.js").State} state
 */
export function spoken(state) {
  const [first] = limitsOf(state);
  const alerts = rulesOf(state.rules, "alert", state.server);
  // Not the sentence, whose numbers change each second.
  return [
    `${state.server} is ${state.facts.state ?? "unknown"}.`,
    first ? (fine(first) ? "Nothing limits it." : `Limited by ${first.id}.`) : "",
    alerts.length ? `Alerts: ${alerts.map((a) => a.name).join(", ")}.` : "",
  ]
    .filter(Boolean)
    .join(" ");
}
