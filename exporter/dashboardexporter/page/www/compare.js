// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Two windows, or two load runs, side by side.

import { SCENE, SIX } from "#page/colours.js";
import { shortName } from "#page/names.js";
import { differenceView, figures } from "#page/report.js";
import { createState, hasData, statistics } from "#page/store.js";
import { axisLabels, duration, moment } from "#page/units.js";
import { uPlot } from "#page/uplot.js";
import { viewQuery } from "#page/url.js";
import { html, nothing } from "#page/vendor/lit-html.js";

/** @typedef {import("#page/store.js").State} State */
/** @typedef {import("#page/store.js").Series} Series */

/**
 * A window, or the time of a load run.
 * @typedef {object} Span
 * @property {number} end milliseconds
 * @property {number} window seconds
 * @property {string} run a load run's id; empty: none
 */

/** @typedef {{text: string, span: Span}} Choice */

/** Of these it is known which direction is better. @type {Record<string, boolean>} */
const UP = { "tokens/s": true, s: false, "s/token": false, "joules/token": false };

/** As many points as a small chart has room for. */
const POINTS = 300;

/** @param {Span} s */
const write = (s) => [s.end, s.window, s.run].filter((v) => v !== "").join(",");

/** As the page's address has it. @param {Span} a @param {Span} b */
export const formatSpans = (a, b) => `${write(a)}~${write(b)}`;

/** @param {string} text @returns {[Span, Span] | null} */
export function parseSpans(text) {
  const spans = text.split("~").map((part) => {
    const [end, window, ...run] = part.split(",");
    return { end: Number(end), window: Number(window), run: run.join(",") };
  });
  const well = spans.every((s) => s.end > 0 && s.window >= 10 && s.window <= 86400);
  return spans.length === 2 && well ? [spans[0], spans[1]] : null;
}

/**
 * What can be compared: the window on the screen, earlier ones, and load runs.
 * @param {State} state
 * @param {[number, number]} range
 * @returns {Choice[]}
 */
export function choices(state, range) {
  const window = Math.max(10, Math.round((range[1] - range[0]) / 1000));
  const end = Math.min(range[1], state.now);
  const before = (/** @type {number} */ s) => ({ end: Math.round(end - s * 1000), window, run: "" });
  const list = [
    { text: `what is shown, ${duration(window)}`, span: before(0) },
    { text: `the ${duration(window)} before`, span: before(window) },
    { text: "an hour earlier", span: before(3600) },
    { text: "a day earlier", span: before(86400) },
  ];
  for (const a of state.annotations.filter((n) => n.kind === "load").reverse()) {
    const to = a.end ?? state.now;
    const seconds = Math.min(86400, Math.max(10, Math.round((to - a.time) / 1000)));
    list.push({
      text: `load run ${moment(a.time, state.now)}: ${a.text}`,
      span: { end: to, window: seconds, run: a.run ?? "" },
    });
  }
  return list;
}

/**
 * The series of both, matched by what they are.
 * @param {Catalogue} catalogue
 * @param {State} a
 * @param {State} b
 */
export function pairs(catalogue, a, b) {
  const list = [];
  for (const panel of catalogue.panels ?? []) {
    const [left, right] = [a.panels.get(panel.id), b.panels.get(panel.id)];
    if (!hasData(left) && !hasData(right)) continue;
    // A load run's series have its id in their labels, so that keys would not do.
    const name = (/** @type {Series} */ s) => `${s.query} ${s.name}`;
    /** @type {Map<string, {a: Series | null, b: Series | null}>} */
    const rows = new Map();
    for (const s of left?.values() ?? []) rows.set(name(s), { a: s, b: null });
    for (const s of right?.values() ?? []) rows.set(name(s), { a: rows.get(name(s))?.a ?? null, b: s });
    for (const row of rows.values()) {
      const series = /** @type {Series} */ (row.a ?? row.b);
      if (panel.queries[series.query]?.style === "dashed") continue;
      list.push({ panel, series, a: row.a, b: row.b });
    }
  }
  return list;
}

/** As a field for a date and time has it. @param {number} ms */
const local = (ms) => new Date(ms - new Date(ms).getTimezoneOffset() * 60_000).toISOString().slice(0, 19);

/** @param {Panel} panel @param {Series} series @param {string[]} gpus */
function titleOf(panel, series, gpus) {
  const name = shortName(series, gpus);
  return name ? `${panel.title}: ${name}` : panel.title;
}

export class Compare {
  /** @type {[Span, Span] | null} */
  #spans = null;
  /** @type {[State, State] | null} */
  #states = null;
  /** @type {[any, any] | null} */
  #reports = null;
  #problem = "";
  #asked = 0;
  #redraw = () => {};
  #remember = (/** @type {string} */ _) => {};
  /** @type {import("uplot")[]} */
  #plots = [];

  /** @param {Catalogue} catalogue @param {() => Theme} theme */
  constructor(catalogue, theme) {
    this.catalogue = catalogue;
    this.theme = theme;
  }

  /**
   * @param {string} text two windows, or empty
   * @param {() => void} redraw
   * @param {(text: string) => void} remember
   */
  open(text, redraw, remember) {
    this.#redraw = redraw;
    this.#remember = remember;
    this.#spans = parseSpans(text);
    this.#states = null;
    this.#reports = null;
    this.#problem = "";
    this.#asked = 0;
    redraw();
  }

  close() {
    this.#asked++;
    this.#clear();
  }

  #clear() {
    for (const p of this.#plots) p.destroy();
    this.#plots = [];
  }

  /** @param {Span} a @param {Span} b @param {View} view */
  async #load(a, b, view) {
    const asked = ++this.#asked;
    this.#spans = [a, b];
    this.#problem = "";
    this.#remember(formatSpans(a, b));
    try {
      const [left, right] = await Promise.all([this.#fetch(a, view), this.#fetch(b, view)]);
      const reports = a.run && b.run ? await Promise.all([report(a.run), report(b.run)]) : [null, null];
      if (asked !== this.#asked) return;
      this.#states = [left, right];
      this.#reports = reports[0] && reports[1] ? [reports[0], reports[1]] : null;
    } catch (error) {
      if (asked !== this.#asked) return;
      this.#problem = /** @type {Error} */ (error).message;
    }
    this.#redraw();
    this.#draw();
  }

  /** @param {Span} span @param {View} view */
  async #fetch(span, view) {
    const query = viewQuery({ ...view, window: span.window, end: span.end }, POINTS);
    const response = await fetch(`live/snapshot?${query}`);
    if (!response.ok) {
      const problem = await response.json().catch(() => ({}));
      throw new Error(problem.error ?? `the collector answered ${response.status}`);
    }
    return createState(await response.json());
  }

  /**
   * @param {State | null} live
   * @param {View} view
   * @param {[number, number]} range
   */
  view(live, view, range) {
    if (!live) return nothing;
    const list = choices(live, range);
    if (!this.#spans) {
      // The list moves with time; what was chosen stays.
      const runs = list.filter((c) => c.span.run);
      const [a, b] = runs.length >= 2 ? [runs[1].span, runs[0].span] : [list[1].span, list[0].span];
      this.#load(a, b, view);
    } else if (!this.#states && !this.#problem && this.#asked === 0) {
      this.#load(this.#spans[0], this.#spans[1], view);
    }
    const [a, b] = /** @type {[Span, Span]} */ (this.#spans);
    const select = (
      /** @type {string} */ name,
      /** @type {Span} */ span,
      /** @type {(s: Span) => void} */ set,
    ) => html`<label>${name}
      <select @change=${(/** @type {Event} */ e) => {
        const choice = list[Number(/** @type {HTMLSelectElement} */ (e.target).value)];
        if (choice) set(choice.span);
      }}>
        <option value="-1">${moment(span.end - span.window * 1000, live.now)}, ${duration(span.window)}</option>
        ${list.map((c, i) => html`<option value=${i}>${c.text}</option>`)}
      </select></label>
      <label>${name} ends at
        <input type="datetime-local" step="1" .value=${local(span.end)} @change=${(/** @type {Event} */ e) => {
          const end = Date.parse(/** @type {HTMLInputElement} */ (e.target).value);
          if (Number.isFinite(end)) set({ end, window: span.window, run: "" });
        }}></label>`;
    return html`<div class="form">
        ${select("A", a, (s) => this.#load(s, b, view))}
        ${select("B", b, (s) => this.#load(a, s, view))}
        <button @click=${() => this.#load(b, a, view)}>swap</button>
        <span class="keyed a">A, solid</span><span class="keyed b">B, dashed</span>
      </div>
      ${this.#problem ? html`<p class="problem" role="alert">${this.#problem}</p>` : nothing}
      ${this.#states ? this.#result(this.#states) : this.#problem ? nothing : html`<p class="muted">loading</p>`}`;
  }

  /** @param {[State, State]} states */
  #result([a, b]) {
    const list = pairs(this.catalogue, a, b);
    const rows = list.flatMap(({ panel, series, a: left, b: right }) => {
      const [x, y] = [left ? statistics(left) : null, right ? statistics(right) : null];
      const name = titleOf(panel, series, a.gpus);
      const up = UP[panel.unit] ?? null;
      const row = { name: `${name}, mean`, unit: panel.unit, a: x?.mean ?? null, b: y?.mean ?? null, up };
      if (panel.draw === "percentiles" || panel.draw === "states") return [row];
      return [row, { ...row, name: `${name}, P95`, a: x?.p95 ?? null, b: y?.p95 ?? null }];
    });
    const reports = this.#reports;
    return html`${
      reports
        ? html`<h3>Reports of the runs</h3>${differenceView(
            figures(reports[0]).map((f, i) => ({ ...f, a: f.value, b: figures(reports[1])[i]?.value ?? null })),
            "Differences of the reports",
          )}`
        : nothing
    }
    <div class="grid small">${overlays(list).map(
      ({ panel, series }) => html`<figure><figcaption>${titleOf(panel, series, a.gpus)}</figcaption>
        <div class="plot" data-compare=${panel.id} role="img" aria-label="Both windows of ${panel.title}; the numbers are in the table below"></div></figure>`,
    )}</div>
    <h3>Differences</h3>${differenceView(rows, "Differences of the windows")}`;
  }

  /** The charts, once their places are there. */
  #draw() {
    this.#clear();
    if (!this.#states) return;
    const [a, b] = this.#states;
    const scene = SCENE[this.theme()];
    const colours = SIX[this.theme()];
    for (const { panel, a: left, b: right } of overlays(pairs(this.catalogue, a, b))) {
      const host = document.querySelector(`[data-compare="${CSS.escape(panel.id)}"]`);
      if (!(host instanceof HTMLElement)) continue;
      // From the beginning of each: windows of different steps are joined.
      const table = (/** @type {State} */ s, /** @type {Series | null} */ of) =>
        /** @type {import("uplot").AlignedData} */ ([
          Array.from({ length: s.points }, (_, i) => (i * s.step) / 1000),
          of?.values ?? Array(s.points).fill(null),
        ]);
      const data = uPlot.join(
        [table(a, left), table(b, right)],
        [
          [2, 2],
          [2, 2],
        ],
      );
      const axis = {
        stroke: scene.muted,
        grid: { stroke: scene.grid, width: 1 },
        ticks: { show: false },
        font: "11px system-ui, sans-serif",
      };
      const line = (/** @type {number} */ i) => ({
        stroke: colours[i],
        width: 1.5,
        dash: i === 1 ? [5, 3] : [],
        points: { show: false },
        // Points of the other window lie between.
        spanGaps: a.step !== b.step,
      });
      this.#plots.push(
        new uPlot(
          {
            width: host.clientWidth,
            height: 130,
            legend: { show: false },
            cursor: { show: false },
            scales: { x: { time: false }, y: { range: (_, __, max) => [0, panel.max ?? (max || 1) * 1.08] } },
            series: [{}, line(0), line(1)],
            axes: [
              {
                ...axis,
                size: 22,
                incrs: [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600],
                space: 60,
                values: (_, splits) => splits.map((t) => (t === 0 ? "0" : duration(t))),
              },
              { ...axis, size: 54, space: 30, values: (_, splits) => axisLabels(splits, panel.unit) },
            ],
          },
          data,
          host,
        ),
      );
    }
  }
}

/**
 * One series a panel is drawn: of percentiles the 95th, otherwise the largest.
 * @param {ReturnType<typeof pairs>} list
 */
export function overlays(list) {
  /** @type {Map<string, {pair: ReturnType<typeof pairs>[number], weight: number}>} */
  const best = new Map();
  for (const pair of list) {
    const { panel, series, a, b } = pair;
    if (panel.draw === "states") continue;
    const mean = (/** @type {Series | null} */ s) => (s ? (statistics(s).mean ?? 0) : 0);
    const weight = panel.draw === "percentiles" ? Number(series.name.includes("95")) : mean(a) + mean(b);
    if (weight > (best.get(panel.id)?.weight ?? -Infinity)) best.set(panel.id, { pair, weight });
  }
  return [...best.values()].map((e) => e.pair);
}

/** What a run measured; null: it is not remembered. @param {string} id */
async function report(id) {
  const response = await fetch(`loadgen/api/v1/runs/${encodeURIComponent(id)}/results`).catch(() => null);
  return response?.ok ? response.json() : null;
}
