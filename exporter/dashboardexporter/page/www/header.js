// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Which server, how it is, and what of it is looked at.

import { clock, duration, moment, text, windowName } from "#page/units.js";
import { html, nothing, svg } from "#page/vendor/lit-html.js";

export const WINDOWS = [60, 300, 900, 3600, 21600, 86400];

/** Drawn, since fonts differ in what signs they have. @type {Record<string, string>} */
const ICONS = {
  play: "M4 2l10 6-10 6z",
  pause: "M3 2h4v12H3zM9 2h4v12H9z",
  save: "M7 1h2v7l2.5-2.5 1.4 1.4L8 11.8 3.1 6.9l1.4-1.4L7 8zM2 13h12v2H2z",
  moon: "M6 1a7 7 0 1 0 9 9A6 6 0 0 1 6 1z",
  sun: "M8 4.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7zM7.3 0h1.4v3H7.3zM7.3 13h1.4v3H7.3zM0 7.3h3v1.4H0zM13 7.3h3v1.4h-3zM2 3l1-1 2 2-1 1zM11 12l1-1 2 2-1 1zM13 2l1 1-2 2-1-1zM4 11l1 1-2 2-1-1z",
};

/** @param {string} name */
const icon = (name) =>
  svg`<svg class="sign" width="13" height="13" viewBox="0 0 16 16" aria-hidden="true"><path d=${ICONS[name]}></path></svg>`;

/**
 * @typedef {object} Actions
 * @property {(server: string) => void} server
 * @property {() => void} overview
 * @property {(seconds: number) => void} window
 * @property {() => void} pause
 * @property {() => void} live
 * @property {() => void} theme
 * @property {() => void} statistics
 * @property {() => void} compare
 * @property {() => void} load
 * @property {() => void} keys
 * @property {() => void} about
 * @property {(gpus: string[]) => void} gpus
 */

/**
 * @typedef {object} Bar what the header shows besides the state
 * @property {View} view
 * @property {string} theme
 * @property {string[]} paused why nothing moves
 * @property {string} link "live", or what is wrong with the connection
 * @property {[number, number] | null} range
 * @property {boolean} offline a file, not a page of a collector
 * @property {boolean} loadgen
 * @property {boolean} several servers
 * @property {string} exportURL
 */

/** What of a server is said all the time; the rest on demand. */
const FACTS = new Set(["model", "quantization", "build", "uptime", "slots"]);

/**
 * All that is known of a server.
 * @param {Catalogue} catalogue
 * @param {import("#page/store.js").State} state
 */
export const aboutView = (catalogue, state) =>
  html`<dl><dt>Address</dt><dd>${state.server}</dd>${(catalogue.facts ?? [])
    .filter((f) => state.facts[f.id] != null)
    .map((f) => {
      const v = state.facts[f.id];
      return html`<dt>${f.title}</dt><dd>${typeof v === "number" ? text(v, f.unit) : v}</dd>`;
    })}</dl>`;

/** States that are neither well nor wrong. */
const CALM = new Set(["loading", "sleeping", "unloaded", "starting"]);

/** @param {string} state */
export const stateClass = (state) => (state === "ok" || state === "up" ? "ok" : CALM.has(state) ? "calm" : "bad");

/**
 * @param {Catalogue} catalogue
 * @param {import("#page/store.js").State} state
 * @param {Bar} bar
 * @param {Actions} act
 * @param {boolean} only the table of servers is shown, not one of them
 */
export function headerView(catalogue, state, bar, act, only) {
  const known = only ? [] : (catalogue.facts ?? []).filter((f) => f.id !== "state" && state.facts[f.id] != null);
  const facts = known.filter((f) => FACTS.has(f.id));
  const health = only ? "" : String(state.facts.state ?? "");
  const { view } = bar;
  return html`
    <div class="who">
      ${
        only
          ? html`<b class="server">${state.servers.length} servers</b>`
          : bar.several && !bar.offline
            ? html`<button class="quiet" @click=${act.overview} title="All servers">◂ all</button>
              <select aria-label="Server" @change=${(/** @type {Event} */ e) => act.server(/** @type {HTMLSelectElement} */ (e.target).value)}>
                ${state.servers.map((s) => html`<option value=${s.id} ?selected=${s.id === state.server}>${s.id}</option>`)}
              </select>`
            : html`<b class="server">${state.server}</b>`
      }
      ${facts.map((f) => {
        const v = state.facts[f.id];
        const said = typeof v !== "number" ? v : f.id === "uptime" ? duration(v) : text(v, f.unit);
        return html`<span class="fact fact-${f.id}" title=${f.title}>${
          typeof v === "number" ? html`<i>${f.id === "uptime" ? "up" : f.title.toLowerCase()}</i> ` : nothing
        }${said}</span>`;
      })}
      ${
        known.length > facts.length
          ? html`<button class="icon" @click=${act.about} title="All that is known of the server" aria-label="About the server">…</button>`
          : nothing
      }
      ${health ? html`<span class="health ${stateClass(health)}">${health}</span>` : nothing}
    </div>
    <div class="controls">
      <span class="link ${bar.link === "live" ? (bar.paused.length || bar.range || bar.offline ? "paused" : "live") : "broken"}">${linkText(state, bar)}</span>
      ${
        bar.range ? html`<button class="quiet" @click=${act.live} title="Undo the zoom (Esc)">✕ zoom</button>` : nothing
      }
      ${
        bar.offline
          ? nothing
          : html`<div class="segments" role="group" aria-label="Window">
              ${WINDOWS.map(
                (w) =>
                  html`<button aria-pressed=${String(view.window === w && view.end === null)} @click=${() => act.window(w)}>
                    ${windowName(w)}
                  </button>`,
              )}
            </div>
            <button class="icon" aria-pressed=${String(bar.paused.includes("you"))} @click=${act.pause}
              title="Pause (space)" aria-label="Pause">${icon(bar.paused.includes("you") ? "play" : "pause")}</button>`
      }
      <button class="quiet" @click=${act.statistics} title="Statistics of all panels (s)">statistics</button>
      ${bar.offline ? nothing : html`<button class="quiet" @click=${act.compare} title="Compare two windows or runs (c)">compare</button>`}
      ${bar.loadgen ? html`<button class="quiet" @click=${act.load} title="Load tests (l)">load</button>` : nothing}
      ${
        bar.offline
          ? nothing
          : html`<a class="quiet" href=${bar.exportURL} download title="One file that shows this view anywhere, without the collector">${icon("save")} snapshot</a>`
      }
      <button class="icon" @click=${act.theme} title="Light or dark (t)" aria-label="Light or dark">${icon(bar.theme === "dark" ? "sun" : "moon")}</button>
      <button class="icon" @click=${act.keys} title="Keys (?)" aria-label="Keys">?</button>
    </div>`;
}

/**
 * @param {import("#page/store.js").State} state
 * @param {Bar} bar
 */
function linkText(state, bar) {
  if (bar.offline) return `snapshot of ${moment(state.now, Date.now())}`;
  if (bar.link !== "live") return bar.link;
  if (bar.range) return `${moment(bar.range[0], state.now)} – ${clock(bar.range[1])}`;
  if (bar.paused.length) return `paused: ${bar.paused.join(", ")}`;
  return "live";
}

/**
 * Which GPUs are shown, where there are several.
 * @param {string[]} all
 * @param {string[]} shown
 * @param {(id: string) => string} name
 * @param {(gpus: string[]) => void} choose
 */
export function gpusView(all, shown, name, choose) {
  if (all.length < 2) return nothing;
  const toggle = (/** @type {string} */ id) => {
    const next = shown.includes(id) ? shown.filter((g) => g !== id) : [...shown, id];
    choose(next.length === all.length ? [] : next);
  };
  return html`<div class="segments" role="group" aria-label="GPUs">
    <button aria-pressed=${String(shown.length === all.length)} @click=${() => choose([])}>all</button>
    ${all.map(
      (id) => html`<button aria-pressed=${String(shown.includes(id) && shown.length < all.length)}
      @click=${() => (shown.length === all.length ? choose([id]) : toggle(id))} title=${id}>${name(id)}</button>`,
    )}
  </div>`;
}
