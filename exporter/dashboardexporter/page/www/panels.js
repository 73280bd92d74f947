// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// The panels in their groups. Only those with data are there, and only those in
// sight are drawn.

import { Chart } from "#page/charts.js";
import { inFrame } from "#page/frame.js";
import { hasData } from "#page/store.js";
import { unitName } from "#page/units.js";
import { html, nothing, render } from "#page/vendor/lit-html.js";

/** @typedef {import("#page/store.js").State} State */

/**
 * @typedef {object} Entry
 * @property {HTMLElement} root
 * @property {HTMLElement} head
 * @property {Chart} chart
 * @property {boolean} visible
 * @property {boolean} drawn ever
 * @property {boolean} help
 */

/** Charts that are drawn in one frame although nobody sees them. */
const AT_ONCE = 4;

export class Panels {
  /** Called when all panels have been drawn once. */
  complete = () => {};
  /** @type {Map<string, Entry>} */
  #entries = new Map();
  /** @type {Map<string, {root: HTMLElement, grid: HTMLElement, extra: HTMLElement}>} */
  #groups = new Map();
  /** @type {State | null} */
  #state = null;
  #seen;

  /**
   * @param {HTMLElement} host
   * @param {Catalogue} catalogue
   * @param {import("#page/plot.js").Board} board
   */
  constructor(host, catalogue, board) {
    this.catalogue = catalogue;
    this.board = board;
    for (const g of catalogue.groups ?? []) {
      const root = document.createElement("section");
      root.className = "group";
      root.hidden = true;
      root.setAttribute("aria-labelledby", `group-${g.id}`);
      const bar = document.createElement("div");
      bar.className = "group-bar";
      const title = document.createElement("h2");
      title.id = `group-${g.id}`;
      title.textContent = g.title;
      const extra = document.createElement("div");
      bar.append(title, extra);
      const grid = document.createElement("div");
      grid.className = "grid";
      root.append(bar, grid);
      host.append(root);
      this.#groups.set(g.id, { root, grid, extra });
    }
    this.#seen = new IntersectionObserver(
      (changes) => {
        for (const c of changes) {
          const entry = this.#entries.get(/** @type {HTMLElement} */ (c.target).dataset.panel ?? "");
          if (!entry) continue;
          entry.visible = c.isIntersecting;
          if (entry.visible && this.#state) this.#draw(entry, this.#state);
        }
      },
      { rootMargin: "100px" },
    );
  }

  /** The place beside a group's title. @param {string} id */
  extra(id) {
    return this.#groups.get(id)?.extra ?? null;
  }

  /** @param {string} id */
  chart(id) {
    return this.#entries.get(id)?.chart ?? null;
  }

  /** The width of a chart, in points. */
  width() {
    for (const e of this.#entries.values())
      if (!e.root.hidden && e.root.clientWidth > 0) return e.root.clientWidth - 90;
    return 0;
  }

  /** @param {State} state */
  update(state) {
    this.#state = state;
    /** @type {Record<string, HTMLElement | null>} */
    const last = {};
    const filled = new Set();
    for (const panel of this.catalogue.panels ?? []) {
      const group = this.#groups.get(panel.group);
      if (!group) continue;
      let entry = this.#entries.get(panel.id);
      const data = hasData(state.panels.get(panel.id));
      if (!entry && data) {
        entry = this.#create(panel);
        const before = last[panel.group];
        if (before) before.after(entry.root);
        else group.grid.prepend(entry.root);
      }
      if (!entry) continue;
      entry.root.hidden = !data;
      last[panel.group] = entry.root;
      if (!data) continue;
      filled.add(panel.group);
    }
    for (const [id, g] of this.#groups) g.root.hidden = !filled.has(id);
    for (const e of this.#entries.values()) if (e.visible && !e.root.hidden) this.#draw(e, state);
    inFrame(this.#drawNew);
  }

  /** @param {Entry} entry @param {State} state */
  #draw(entry, state) {
    entry.chart.update(state);
    entry.drawn = true;
  }

  /**
   * Draws what was never in sight, a little in each frame, so that all have their
   * height: the page does not move under somebody who scrolls.
   */
  #drawNew = () => {
    const state = this.#state;
    if (!state) return;
    const due = [...this.#entries.values()].filter((e) => !e.drawn && !e.root.hidden);
    for (const e of due.slice(0, AT_ONCE)) this.#draw(e, state);
    if (due.length > AT_ONCE) inFrame(this.#drawNew);
    else this.complete();
  };

  resize() {
    for (const e of this.#entries.values()) if (!e.root.hidden) e.chart.resize();
  }

  /** @param {Panel} panel */
  #create(panel) {
    const root = document.createElement("article");
    root.className = "panel";
    root.id = `panel-${panel.id}`;
    root.dataset.panel = panel.id;
    root.setAttribute("aria-labelledby", `title-${panel.id}`);
    const head = document.createElement("div");
    head.className = "head";
    root.append(head);
    const entry = { root, head, chart: new Chart(panel, root, this.board), visible: false, drawn: false, help: false };
    this.#entries.set(panel.id, entry);
    this.#head(panel, entry);
    this.#seen.observe(root);
    return entry;
  }

  /** @param {Panel} panel @param {Entry} entry */
  #head(panel, entry) {
    const again = () => this.#head(panel, entry);
    const unit = unitName(panel.unit);
    render(
      html`<h3 id="title-${panel.id}">${panel.title}</h3>
        ${unit ? html`<span class="unit">${unit}</span>` : nothing}
        ${panel.estimate ? html`<span class="estimate" title="Computed from averages, not measured request by request">estimate</span>` : nothing}
        <span class="tools">
          ${
            panel.draw === "percentiles"
              ? html`<button class="quiet" aria-pressed=${String(entry.chart.log)} title="Logarithmic axis"
                  @click=${() => {
                    entry.chart.log = !entry.chart.log;
                    again();
                  }}>log</button>`
              : nothing
          }
          ${
            panel.help
              ? html`<button class="icon" aria-expanded=${String(entry.help)} aria-label="What ${panel.title} means" title=${panel.help}
                  @click=${() => {
                    entry.help = !entry.help;
                    again();
                  }}>i</button>`
              : nothing
          }
        </span>
        ${entry.help ? html`<p class="help">${panel.help}</p>` : nothing}`,
      entry.head,
    );
  }
}
