// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Slots over time: each request a bar, its prompt pale and its generation full.
// A path builder of uPlot, so that cursor, zoom and resolution are the charts'.

import { SCENE } from "#page/colours.js";
import { key, options, rowScale, touch } from "#page/plot.js";
import { beganAt } from "#page/requests.js";
import { clock, duration, text } from "#page/units.js";
import { uPlot } from "#page/uplot.js";

/** @typedef {import("#page/store.js").State} State */
/** @typedef {import("#page/plot.js").Board} Board */

const ROW = 24;

/**
 * @typedef {object} Bar
 * @property {number} slot
 * @property {number} start
 * @property {number | null} first
 * @property {number | null} end null: goes on
 * @property {RequestData | null} request
 * @property {Running | null} running
 */

/**
 * What was in the slots of a server, by slot and start.
 * @param {State} state
 * @returns {Bar[]}
 */
export function bars(state) {
  /** @type {Bar[]} */
  const list = [];
  for (const r of state.requests) {
    if (r.slot == null || r.slot < 0 || r.client || (r.server && r.server !== state.server)) continue;
    list.push({ slot: r.slot, start: beganAt(r), first: r.first, end: r.end, request: r, running: null });
  }
  for (const r of state.running) {
    if (r.server && r.server !== state.server) continue;
    // When the first token came is known once the request has ended.
    const first = r.state === "generating" ? r.since : null;
    list.push({ slot: r.slot, start: r.since, first, end: null, request: null, running: r });
  }
  return list.sort((a, b) => a.slot - b.slot || a.start - b.start);
}

/** @param {State} state @param {Bar[]} list */
export function slotCount(state, list) {
  const known = Number(state.facts.slots ?? 0);
  return Math.max(Number.isFinite(known) ? known : 0, ...list.map((b) => b.slot + 1), 0);
}

export class Lanes {
  /** @type {import("uplot") | null} */
  #plot = null;
  #shape = "";
  /** @type {Bar[]} */
  #bars = [];
  #now = 0;
  /** @type {HTMLElement} */
  #canvas;
  /** @type {HTMLElement} */
  #tip;
  /** @type {State | null} */
  #state = null;

  /**
   * @param {HTMLElement} host
   * @param {Board} board
   * @param {(bar: Bar) => void} open
   */
  constructor(host, board, open) {
    this.board = board;
    this.open = open;
    this.host = host;
    this.#canvas = document.createElement("div");
    this.#canvas.className = "plot";
    this.#canvas.tabIndex = 0;
    this.#canvas.setAttribute("role", "group");
    this.#canvas.setAttribute("aria-label", "Slots over time. The same requests are in the table Recent requests.");
    this.#canvas.addEventListener("keydown", (e) => {
      if (this.#plot && key(this.#plot, board, e)) e.preventDefault();
    });
    this.#tip = document.createElement("div");
    this.#tip.className = "tip";
    this.#tip.hidden = true;
    const colours = document.createElement("div");
    colours.className = "keys-of-lanes";
    for (const [name, words] of [
      ["prompt", "reads the prompt"],
      ["generating", "generates"],
      ["cancelled", "ended as cancelled"],
      ["failed", "failed"],
    ]) {
      const one = document.createElement("span");
      one.className = name;
      one.textContent = words;
      colours.append(one);
    }
    host.append(this.#canvas, colours, this.#tip);
  }

  get plot() {
    return this.#plot;
  }

  redraw() {
    if (this.#state) this.update(this.#state);
  }

  /** Reports whether there is something to show. @param {State} state */
  update(state) {
    this.#state = state;
    this.#now = state.now;
    this.#bars = bars(state);
    const slots = slotCount(state, this.#bars);
    const width = this.#canvas.clientWidth;
    if (slots === 0 || width === 0) return slots > 0;
    const shape = `${this.board.theme()} ${slots}`;
    const x = Array.from({ length: state.points }, (_, i) => state.start + i * state.step);
    const rows = Array.from({ length: slots }, (_, slot) => x.map(() => slot));
    /** @type {import("uplot").AlignedData} */
    const data = [x, ...rows];
    const height = slots * ROW + 34;
    if (shape !== this.#shape || !this.#plot) {
      this.#plot?.destroy();
      this.#shape = shape;
      this.#plot = new uPlot(this.#options(width, height, slots), data, this.#canvas);
      touch(this.#plot, this.board);
      this.#plot.over.addEventListener("click", (e) => this.#click(e));
      this.#plot.over.addEventListener("mousemove", (e) => this.#hover(e));
      this.#plot.over.addEventListener("mouseleave", () => {
        this.#tip.hidden = true;
      });
    } else {
      this.#plot.setData(data);
      if (this.#plot.width !== width) this.#plot.setSize({ width, height });
    }
    return true;
  }

  resize() {
    const width = this.#canvas.clientWidth;
    if (this.#plot && width > 0 && this.#plot.width !== width) {
      this.#plot.setSize({ width, height: this.#plot.height });
    }
  }

  /** @param {number} width @param {number} height @param {number} slots */
  #options(width, height, slots) {
    return options(this.board, {
      width,
      height,
      points: false,
      series: Array.from({ length: slots }, (_, slot) => ({
        label: `slot ${slot}`,
        points: { show: false },
        paths: (/** @type {import("uplot")} */ u) => {
          this.#draw(u, slot);
          return null;
        },
      })),
      ...rowScale(Array.from({ length: slots }, (_, i) => `slot ${i}`)),
    });
  }

  /** @param {import("uplot")} u @param {number} slot */
  #draw(u, slot) {
    const { ctx, bbox } = u;
    const scene = SCENE[this.board.theme()];
    const ratio = uPlot.pxRatio;
    const height = Math.round(ROW * 0.62 * ratio);
    const y = Math.round(u.valToPos(slot, "y", true) - height / 2);
    const [from, to] = this.board.range();
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.fillStyle = scene.grid;
    ctx.fillRect(bbox.left, y + height, bbox.width, ratio);
    for (const b of this.#bars) {
      const end = b.end ?? this.#now;
      if (b.slot !== slot || end < from || b.start > to) continue;
      const left = u.valToPos(b.start, "x", true);
      const right = Math.max(left + ratio, u.valToPos(end, "x", true));
      const middle = b.first === null ? right : u.valToPos(b.first, "x", true);
      ctx.fillStyle = scene.prompt;
      ctx.fillRect(left, y, Math.max(ratio, middle - left), height);
      ctx.fillStyle = scene.generating;
      // A pixel between two requests.
      if (right > middle) ctx.fillRect(middle, y, Math.max(ratio, right - middle - ratio), height);
      if (b.request && b.request.outcome !== "completed" && b.request.outcome !== "unknown") {
        ctx.fillStyle = b.request.outcome === "cancelled" ? scene.warning : scene.critical;
        const mark = Math.min(3 * ratio, (right - left) / 2);
        ctx.fillRect(right - mark, y, mark, height);
      }
      if (b.running && b.running.remaining != null && b.running.generated + b.running.remaining > 0) {
        const share = b.running.generated / (b.running.generated + b.running.remaining);
        ctx.fillStyle = scene.ink;
        ctx.fillRect(left, y + height - 2 * ratio, (right - left) * share, 2 * ratio);
      }
    }
    ctx.restore();
  }

  /** @param {MouseEvent} e */
  #at(e) {
    const u = this.#plot;
    if (!u) return null;
    const box = u.over.getBoundingClientRect();
    const time = u.posToVal(e.clientX - box.left, "x");
    const slot = Math.round(u.posToVal(e.clientY - box.top, "y"));
    // Short requests are hit with a little help.
    const slack = (u.posToVal(4, "x") - u.posToVal(0, "x")) / 2;
    return (
      this.#bars.findLast((b) => b.slot === slot && time >= b.start - slack && time <= (b.end ?? this.#now) + slack) ??
      null
    );
  }

  /** @param {MouseEvent} e */
  #click(e) {
    const bar = this.#at(e);
    if (bar) this.open(bar);
  }

  /** @param {MouseEvent} e */
  #hover(e) {
    const bar = this.#at(e);
    this.#tip.hidden = !bar;
    this.#plot?.over.classList.toggle("clickable", Boolean(bar));
    if (!bar) return;
    this.#tip.textContent = describe(bar, this.#now);
    const box = this.host.getBoundingClientRect();
    const left = Math.min(e.clientX - box.left + 12, box.width - this.#tip.offsetWidth - 4);
    this.#tip.style.transform = `translate(${Math.max(0, left)}px, ${e.clientY - box.top + 14}px)`;
  }
}

/** @param {Bar} bar @param {number} now */
export function describe(bar, now) {
  if (bar.running) {
    const r = bar.running;
    const left = r.remaining == null ? "" : `, ${r.remaining} to go`;
    return `task ${r.task} · ${r.state} for ${duration((now - r.since) / 1000)} · prompt ${r.prompt} tok · ${r.generated} generated${left}`;
  }
  const r = /** @type {RequestData} */ (bar.request);
  const ttft = r.ttft == null ? "" : ` · first token ${text(r.ttft, "s")}`;
  const wait = r.wait == null ? "" : ` · waited ${text(r.wait, "s")}`;
  return `${clock(r.start)} · task ${r.task} · ${r.outcome} · ${text(r.duration, "s")}${wait}${ttft} · prompt ${r.prompt} tok (${r.cached} cached) · ${r.generated} generated`;
}
