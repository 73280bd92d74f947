// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// A panel's chart, with its numbers as a table below.

import { colour, faint, SCENE, SHADES } from "#page/colours.js";
import { inFrame } from "#page/frame.js";
import { shortName } from "#page/names.js";
import { key, options, rowScale, touch } from "#page/plot.js";
import { statistics } from "#page/store.js";
import { axisLabels, brief, clock, text } from "#page/units.js";
import { uPlot } from "#page/uplot.js";
import { html, nothing, render, svg } from "#page/vendor/lit-html.js";

/** @typedef {import("#page/store.js").State} State */
/** @typedef {import("#page/store.js").Series} Series */
/** @typedef {import("#page/plot.js").Board} Board */

/**
 * A series as it is drawn.
 * @typedef {object} Line
 * @property {Series} series
 * @property {string} name
 * @property {string} stroke
 * @property {number} width
 * @property {number[]} dash
 * @property {boolean} block an area, not a line
 * @property {Values} drawn the values, or their sum with those below
 */

/** More lines than this hide each other's ranges. */
const RANGES = 4;
const HEIGHT = 168;
const ROW = 26;
const DENSE = 15;
/** More states than this are shown only if they were the case. */
const ROWS = 8;
const DASHES = [[], [3, 3], [8, 3, 2, 3], [1, 3]];

/**
 * @param {Panel} panel
 * @param {Map<string, Series>} data
 * @param {Theme} theme
 * @param {string[]} gpus
 * @returns {Line[]}
 */
export function lines(panel, data, theme, gpus) {
  const gpu = (/** @type {Series} */ s) => gpus.indexOf(s.labels.hw_id ?? "");
  const list = [...data.values()].sort((a, b) => a.query - b.query || gpu(a) - gpu(b) || byName(a.name, b.name));
  const dashed = (/** @type {Series} */ s) => panel.queries[s.query]?.style === "dashed";
  const solid = list.filter((s) => !dashed(s));
  const several = gpus.length > 1 && solid.some((s) => s.labels.hw_id);
  // What is measured of each GPU.
  const variant = (/** @type {Series} */ s) => `${s.query} ${shortName({ ...s, labels: { ...s.labels } }, []).trim()}`;
  const variants = [...new Set(solid.map(variant))];
  /** @type {Line[]} */
  const out = list.map((series) => {
    const line = {
      series,
      name: shortName(series, gpus),
      stroke: SCENE[theme].limit,
      width: 1,
      dash: [6, 4],
      block: false,
      drawn: series.values,
    };
    if (dashed(series)) return line;
    line.width = 1.5;
    line.dash = [];
    line.block = panel.draw === "states" || panel.draw === "stacked";
    if (panel.draw === "percentiles" && solid.length <= SHADES[theme].length) {
      const i = solid.indexOf(series);
      line.stroke = SHADES[theme][i];
      line.width = [2.25, 1.75, 1.25][i];
    } else if (several && series.labels.hw_id) {
      // A GPU has its colour in all panels; what is measured differs in its stroke.
      line.stroke = colour(theme, gpus.indexOf(series.labels.hw_id), gpus.length);
      line.dash = DASHES[variants.indexOf(variant(series)) % DASHES.length];
    } else {
      line.stroke = colour(theme, solid.indexOf(series), solid.length);
    }
    return line;
  });
  if (panel.draw === "stacked") {
    /** @type {Values | null} */
    let below = null;
    for (const line of out) {
      if (!line.block) continue;
      const under = below;
      line.drawn = line.series.values.map((v, i) => {
        const base = under?.[i] ?? null;
        return v === null && base === null ? null : (v ?? 0) + (base ?? 0);
      });
      below = line.drawn;
    }
  }
  return out;
}

/**
 * Of many states, such as the reasons of eight GPUs, those that were the case.
 * @param {Line[]} all
 */
export function rowsOf(all) {
  if (all.length <= ROWS) return all;
  const some = all.filter((l) => l.series.values.some((v) => v !== null && v > 0));
  return (some.length ? some : all).slice(0, some.length ? 3 * ROWS : ROWS);
}

/**
 * The series as they are now.
 * @param {Map<string, Series> | undefined} data
 */
function copied(data) {
  /** @type {Map<string, Series>} */
  const copies = new Map();
  for (const [key, s] of data ?? []) {
    copies.set(key, { ...s, values: s.values.slice(), low: s.low?.slice() ?? null, high: s.high?.slice() ?? null });
  }
  return copies;
}

const collator = new Intl.Collator("en", { numeric: true });
const byName = collator.compare;

/**
 * Values without neighbours, which no line shows.
 * @param {ArrayLike<number | null | undefined>} values
 */
export function lonely(values) {
  const list = [];
  for (let i = 0; i < values.length; i++) {
    if (values[i] != null && values[i - 1] == null && values[i + 1] == null) list.push(i);
  }
  return list;
}

/**
 * The top of the vertical scale.
 * @param {Panel} panel
 * @param {number | null} max of the data
 */
export function top(panel, max) {
  if (panel.max != null) return Math.max(panel.max, max ?? 0);
  if (max === null || max <= 0) return 1;
  return max * 1.08;
}

export class Chart {
  /** @type {import("uplot") | null} */
  #plot = null;
  #shape = "";
  /** @type {Line[]} */
  #lines = [];
  /** @type {State | null} */
  #state = null;
  // Of what is drawn; the state goes on while the chart stands still.
  #start = 0;
  #step = 1000;
  /** @type {Set<string>} */
  #hidden = new Set();
  #log = false;
  /** @type {HTMLElement} */
  #canvas;
  /** @type {HTMLElement} */
  #legend;
  #drawLegend = () => this.#renderLegend();

  /**
   * @param {Panel} panel
   * @param {HTMLElement} host
   * @param {Board} board
   */
  constructor(panel, host, board) {
    this.panel = panel;
    this.board = board;
    this.#canvas = document.createElement("div");
    this.#canvas.className = "plot";
    this.#canvas.tabIndex = 0;
    this.#canvas.setAttribute("role", "group");
    this.#canvas.setAttribute("aria-label", `Chart: ${panel.title}. Its numbers are in the table that follows.`);
    this.#canvas.addEventListener("keydown", (e) => {
      if (this.#plot && key(this.#plot, board, e)) e.preventDefault();
    });
    this.#legend = document.createElement("div");
    this.#legend.className = "legend";
    host.append(this.#canvas, this.#legend);
  }

  get log() {
    return this.#log;
  }

  set log(on) {
    this.#log = on;
    this.#shape = "";
    this.redraw();
  }

  /** For tests: where uPlot draws what. */
  get plot() {
    return this.#plot;
  }

  redraw() {
    if (this.#state) this.update(this.#state);
  }

  /** @param {State} state */
  update(state) {
    this.#state = state;
    const { panel } = this;
    const theme = this.board.theme();
    this.#lines = lines(panel, copied(state.panels.get(panel.id)), theme, state.gpus);
    if (panel.draw === "states") this.#lines = rowsOf(this.#lines);
    this.#start = state.start;
    this.#step = state.step;
    const width = this.#canvas.clientWidth;
    if (width === 0) return;
    const shape = [theme, this.#log, ...this.#lines.map((l) => `${l.series.key}${l.stroke}${!l.series.low}`)].join();
    const data = this.#data(state);
    this.#canvas.style.minHeight = `${this.#height()}px`;
    if (shape !== this.#shape || !this.#plot) {
      this.#plot?.destroy();
      this.#shape = shape;
      this.#plot = new uPlot(this.#options(width), data, this.#canvas);
      touch(this.#plot, this.board);
    } else {
      this.#plot.setData(data);
      const height = this.#height();
      if (this.#plot.width !== width || this.#plot.height !== height) this.#plot.setSize({ width, height });
    }
    this.#renderLegend();
  }

  /** Where the size of the page has changed. */
  resize() {
    const width = this.#canvas.clientWidth;
    if (this.#plot && width > 0 && this.#plot.width !== width) this.#plot.setSize({ width, height: this.#height() });
  }

  destroy() {
    this.#plot?.destroy();
    this.#plot = null;
  }

  #height() {
    return this.panel.draw === "states"
      ? Math.max(64, this.#lines.length * (this.#lines.length > ROWS ? DENSE : ROW) + 36)
      : HEIGHT;
  }

  /** Lines whose buckets have a least and a greatest value that is shown. */
  #ranged() {
    if (this.panel.draw === "stacked" || this.panel.draw === "states" || this.#lines.length > RANGES) return [];
    return this.#lines.filter((l) => l.series.low && l.series.high);
  }

  /** @param {State} state @returns {import("uplot").AlignedData} */
  #data(state) {
    const x = Array.from({ length: state.points }, (_, i) => state.start + i * state.step);
    // A logarithm has no place for what is not positive.
    const copy = (/** @type {Values} */ v) => (this.#log ? v.map((y) => (y !== null && y > 0 ? y : null)) : v);
    const drawn =
      this.panel.draw === "states"
        ? this.#lines.map((l, row) => l.series.values.map((v) => (v === null ? null : v > 0 ? row : row + 0.001)))
        : this.#lines.map((l) => copy(l.drawn));
    const ranges = this.#ranged().flatMap((l) => [
      copy(/** @type {Values} */ (l.series.high)),
      copy(/** @type {Values} */ (l.series.low)),
    ]);
    return [x, ...drawn, ...ranges];
  }

  /** @param {number} width */
  #options(width) {
    const { panel, board } = this;
    if (panel.draw === "states") return this.#stateOptions(width);
    const scene = SCENE[board.theme()];
    const stacked = panel.draw === "stacked";
    const points = {
      show: false,
      size: 4,
      filter: (/** @type {import("uplot")} */ u, /** @type {number} */ i) => lonely(u.data[i]),
    };
    /** @type {import("uplot").Series[]} */
    const series = this.#lines.map((l) => ({
      label: l.name,
      show: !this.#hidden.has(l.series.key),
      // What adds nothing to a stack would draw over what does.
      stroke: stacked && l.block ? () => (l.series.values.some(Boolean) ? l.stroke : "transparent") : l.stroke,
      width: l.width,
      dash: l.dash,
      points: { ...points, fill: l.stroke },
      ...(stacked && l === this.#lines.find((other) => other.block) ? { fill: faint(l.stroke, 0.35) } : {}),
    }));
    /** @type {import("uplot").Band[]} */
    const bands = [];
    if (stacked) {
      let below = -1;
      for (const [i, l] of this.#lines.entries()) {
        if (!l.block) continue;
        if (below >= 0) bands.push({ series: [i + 1, below + 1], fill: faint(l.stroke, 0.35) });
        below = i;
      }
    }
    for (const l of this.#ranged()) {
      const at = series.length + 1;
      const edge = { width: 0, stroke: "transparent", points: { show: false }, show: !this.#hidden.has(l.series.key) };
      series.push(edge, { ...edge });
      bands.push({ series: [at, at + 1], fill: faint(l.stroke, 0.18) });
    }
    const count = this.#lines.length;
    const log = this.#log;
    return options(board, {
      width,
      height: this.#height(),
      series,
      bands,
      scale: log ? { distr: 3, log: 10 } : { range: (_, __, max) => [0, top(panel, max)] },
      axis: {
        size: 58,
        space: 34,
        values: (_, splits) =>
          axisLabels(
            splits.map((v) => v ?? 0),
            panel.unit,
          ).map((t, i) => (splits[i] == null ? "" : t)),
      },
      hooks: {
        draw: [(u) => this.#drawThresholds(u, scene)],
        setCursor: [() => inFrame(this.#drawLegend)],
        // The edges of a range are not values of their own.
        ready: [
          (u) => {
            for (const [i, pt] of u.over.querySelectorAll(".u-cursor-pt").entries()) {
              if (i >= count) pt.remove();
            }
          },
        ],
      },
    });
  }

  /** @param {number} width */
  #stateOptions(width) {
    return options(this.board, {
      width,
      height: this.#height(),
      points: false,
      series: this.#lines.map((l, row) => ({
        label: l.name,
        show: !this.#hidden.has(l.series.key),
        stroke: l.stroke,
        fill: l.stroke,
        points: { show: false },
        paths: (u, i) => statePath(u, i, row, this.#step),
      })),
      ...rowScale(this.#lines.map((l) => l.name)),
      hooks: { setCursor: [() => inFrame(this.#drawLegend)] },
    });
  }

  /** @param {import("uplot")} u @param {typeof SCENE["light"]} scene */
  #drawThresholds(u, scene) {
    const { ctx, bbox } = u;
    const ratio = uPlot.pxRatio;
    for (const t of this.panel.thresholds ?? []) {
      const { min, max } = u.scales.y;
      if (min == null || max == null || t.value < min || t.value > max) continue;
      const y = Math.round(u.valToPos(t.value, "y", true)) + 0.5;
      ctx.save();
      ctx.strokeStyle = t.level === "critical" ? scene.critical : scene.warning;
      ctx.lineWidth = ratio;
      ctx.setLineDash([2 * ratio, 3 * ratio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.restore();
    }
  }

  /** @param {string} key */
  #toggle(key) {
    if (this.#hidden.has(key)) this.#hidden.delete(key);
    else this.#hidden.add(key);
    this.#shape = "";
    this.redraw();
  }

  #renderLegend() {
    const { panel } = this;
    if (!this.#state) return;
    const [start, step] = [this.#start, this.#step];
    const u = this.#plot;
    const inside = u && u.cursor.left != null && u.cursor.left >= 0;
    const at = inside ? (u.cursor.idx ?? null) : null;
    const [from, to] = this.board.range();
    const first = Math.max(0, Math.floor((from - start) / step));
    const last = Math.ceil((to - start) / step) - 1;
    const cell = (/** @type {number | null} */ v) => html`<td>${brief(v, panel.unit)}</td>`;
    render(
      html`<table>
        <caption class="unseen">${panel.title}</caption>
        <thead>
          <tr>
            <th scope="col"><span class="unseen">series</span></th>
            <th scope="col" class=${at === null ? "" : "at"}>${at === null ? "last" : clock(start + at * step)}</th>
            ${
              panel.draw === "states"
                ? html`<th scope="col">share</th>`
                : html`<th scope="col">min</th><th scope="col">mean</th><th scope="col">max</th><th scope="col">P95</th>`
            }
          </tr>
        </thead>
        <tbody>
          ${this.#lines.map((l) => {
            const s = statistics(l.series, first, last);
            const on = !this.#hidden.has(l.series.key);
            return html`<tr class=${on ? "" : "off"}>
              <th scope="row">
                <button aria-pressed=${String(on)} @click=${() => this.#toggle(l.series.key)} title=${l.series.name}>
                  ${swatch(l)}<span>${l.name || panel.title}</span>
                </button>
              </th>
              ${
                panel.draw === "states"
                  ? html`<td>${said(at === null ? s.last : l.series.values[at])}</td><td>${text(s.mean, "ratio")}</td>`
                  : html`${cell(at === null ? s.last : l.series.values[at])}${cell(s.min)}${cell(s.mean)}${cell(s.max)}${cell(s.p95)}`
              }
            </tr>`;
          })}
        </tbody>
      </table>`,
      this.#legend,
    );
  }
}

/** @param {number | null} v */
const said = (v) => (v === null ? "–" : v > 0 ? "yes" : "no");

/** @param {Line} l */
function swatch(l) {
  if (l.block) {
    return html`<svg width="16" height="10" aria-hidden="true">${svg`<rect x="2" width="12" height="10" fill=${l.stroke}></rect>`}</svg>`;
  }
  return html`<svg width="16" height="8" aria-hidden="true">
    ${svg`<line x1="0" y1="4" x2="16" y2="4" stroke=${l.stroke} stroke-width=${Math.max(2, l.width)}
      stroke-dasharray=${l.dash.length ? "3 2" : nothing}></line>`}
  </svg>`;
}

/**
 * A bar for each time in which a state was the case.
 * @param {import("uplot")} u
 * @param {number} index
 * @param {number} row
 * @param {number} step
 */
function statePath(u, index, row, step) {
  const fill = new Path2D();
  const xs = u.data[0];
  const ys = u.data[index];
  const height = Math.abs(u.valToPos(0, "y", true) - u.valToPos(1, "y", true)) * 0.62;
  const y = u.valToPos(row, "y", true) - height / 2;
  let from = -1;
  for (let i = 0; i <= xs.length; i++) {
    const on = i < xs.length && ys[i] === row;
    if (on && from < 0) from = i;
    if (!on && from >= 0) {
      const left = u.valToPos(xs[from], "x", true);
      const right = u.valToPos(xs[i - 1] + step, "x", true);
      fill.rect(left, y, Math.max(1, right - left), height);
      from = -1;
    }
  }
  return { fill, stroke: null };
}
