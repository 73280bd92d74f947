// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// What all charts have in common: the time axis, one cursor, zoom by mouse, touch
// and keys, and annotations.

import { faint, SCENE } from "#page/colours.js";
import { clock } from "#page/units.js";
import { uPlot } from "#page/uplot.js";

/** @typedef {import("uplot")} Plot */
/** @typedef {import("uplot").Options} Options */

/**
 * What charts are told of the page.
 * @typedef {object} Board
 * @property {() => Theme} theme
 * @property {() => [number, number]} range of time, in milliseconds
 * @property {() => Annotation[]} annotations
 * @property {(from: number, to: number) => void} zoom
 * @property {() => void} reset undoes a zoom
 */

/** Milliseconds; a zoom goes no deeper. */
const SHORTEST = 10_000;

const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';

/**
 * @param {Board} board
 * @param {object} own
 * @param {number} own.width
 * @param {number} own.height
 * @param {import("uplot").Series[]} own.series
 * @param {import("uplot").Axis} own.axis the vertical one
 * @param {import("uplot").Scale} own.scale
 * @param {import("uplot").Band[]} [own.bands]
 * @param {import("uplot").Hooks.Arrays} [own.hooks]
 * @param {boolean} [own.points] whether the cursor marks values
 * @returns {Options}
 */
export function options(board, own) {
  const theme = board.theme();
  const scene = SCENE[theme];
  return {
    width: own.width,
    height: own.height,
    ms: 1,
    pxAlign: 1,
    legend: { show: false },
    padding: [8, 8, 0, 0],
    cursor: {
      sync: { key: "page", scales: ["x", null], setSeries: false },
      drag: { x: true, y: false, setScale: false, dist: 5 },
      y: false,
      points: own.points === false ? { show: false } : { size: 6, width: 1.5, fill: scene.ground },
      bind: {
        dblclick: () => () => {
          board.reset();
          return null;
        },
      },
    },
    scales: { x: { time: true, range: () => board.range() }, y: own.scale },
    series: [{}, ...own.series],
    bands: own.bands ?? [],
    axes: [
      {
        stroke: scene.muted,
        font: FONT,
        size: 24,
        gap: 4,
        // Labels with seconds are longer.
        space: (_, __, min, max, dim) => (((max - min) / dim) * 64 >= 45_000 ? 44 : 64),
        grid: { stroke: scene.grid, width: 1 },
        ticks: { stroke: scene.grid, width: 1, size: 4 },
        values: (u, splits, _, __, incr) => {
          const [from, to] = board.range();
          // The last label would reach beyond the canvas.
          const end = to - ((to - from) * (incr < 60_000 ? 22 : 14)) / Math.max(1, u.width - 70);
          return splits.map((t) => (t > end ? "" : timeLabel(t, incr)));
        },
      },
      {
        stroke: scene.muted,
        font: FONT,
        gap: 4,
        ticks: { show: false },
        grid: { stroke: scene.grid, width: 1 },
        ...own.axis,
      },
    ],
    hooks: {
      ...own.hooks,
      setSelect: [
        (u) => {
          if (u.select.width < 5) return;
          const from = u.posToVal(u.select.left, "x");
          const to = u.posToVal(u.select.left + u.select.width, "x");
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          zoom(board, from, to);
        },
      ],
      setCursor: [
        (u) => {
          u.over.title = annotationsAt(u, board).join("\n");
        },
        ...(own.hooks?.setCursor ?? []),
      ],
      drawAxes: [(u) => drawAnnotations(u, board), ...(own.hooks?.drawAxes ?? [])],
    },
  };
}

/**
 * The vertical scale and axis of rows, the first at the top.
 * @param {string[]} names
 * @returns {{scale: import("uplot").Scale, axis: import("uplot").Axis}}
 */
export function rowScale(names) {
  return {
    scale: { dir: -1, range: () => [-0.5, names.length - 0.5] },
    axis: {
      // Short names leave the rows below those of other charts.
      size: Math.min(130, Math.max(58, 14 + 6 * Math.max(0, ...names.map((n) => n.length)))),
      splits: () => names.map((_, i) => i),
      values: () => names.map((n) => (n.length > 19 ? `${n.slice(0, 18)}…` : n)),
      grid: { show: false },
    },
  };
}

/** @param {number} t @param {number} incr the time between labels */
function timeLabel(t, incr) {
  const text = clock(t);
  return incr < 60_000 ? text : text.slice(0, 5);
}

/** @param {Board} board @param {number} from @param {number} to */
function zoom(board, from, to) {
  const missing = Math.max(0, SHORTEST - (to - from)) / 2;
  board.zoom(Math.round(from - missing), Math.round(to + missing));
}

/**
 * What the annotations under the cursor say.
 * @param {Plot} u
 * @param {Board} board
 */
function annotationsAt(u, board) {
  const { left } = u.cursor;
  if (left == null || left < 0) return [];
  return board
    .annotations()
    .filter((a) => Math.abs(u.valToPos(a.time, "x") - left) < 5)
    .map((a) => `${a.kind}: ${a.text}`);
}

/** Pixels; where annotations are closer, they would hide the chart. */
const APART = 20;

/** @param {Plot} u @param {Board} board */
function drawAnnotations(u, board) {
  const scene = SCENE[board.theme()];
  const { ctx, bbox } = u;
  const [from, to] = board.range();
  const list = board.annotations().filter((a) => a.time <= to && (a.end ?? to) >= from);
  if (list.length === 0) return;
  const ratio = uPlot.pxRatio;
  const crowded = list.length * APART * ratio > bbox.width;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.lineWidth = ratio;
  for (const a of list) {
    const stroke = scene.mark[a.kind] ?? scene.muted;
    const x = Math.round(u.valToPos(a.time, "x", true));
    const end = u.valToPos(a.end ?? to, "x", true);
    // How long it took is a strip at the top: a tint of the whole chart would hide what it shows.
    ctx.fillStyle = crowded ? stroke : faint(stroke, 0.6);
    ctx.fillRect(x, bbox.top, Math.max(ratio, end - x), 3 * ratio);
    if (crowded) continue;
    ctx.strokeStyle = faint(stroke, 0.75);
    ctx.setLineDash([3 * ratio, 3 * ratio]);
    ctx.beginPath();
    ctx.moveTo(x + 0.5, bbox.top);
    ctx.lineTo(x + 0.5, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

/**
 * Two fingers zoom, one moves the cursor; the page still scrolls up and down.
 * @param {Plot} u
 * @param {Board} board
 */
export function touch(u, board) {
  /** @type {Map<number, number>} */
  const fingers = new Map();
  /** @type {[number, number] | null} */
  let held = null;
  const left = (/** @type {PointerEvent} */ e) => e.clientX - u.over.getBoundingClientRect().left;
  const width = () => u.over.clientWidth;
  u.over.addEventListener("pointerdown", (e) => {
    if (e.pointerType !== "touch") return;
    fingers.set(e.pointerId, left(e));
    if (fingers.size === 2) {
      const [a, b] = [...fingers.values()].sort((x, y) => x - y);
      held = [u.posToVal(a, "x"), u.posToVal(b, "x")];
    }
  });
  u.over.addEventListener("pointermove", (e) => {
    if (!fingers.has(e.pointerId)) return;
    fingers.set(e.pointerId, left(e));
    if (fingers.size === 1) setCursor(u, left(e));
  });
  const end = (/** @type {PointerEvent} */ e) => {
    if (!fingers.has(e.pointerId)) return;
    if (held && fingers.size === 2) {
      const [a, b] = [...fingers.values()].sort((x, y) => x - y);
      // The times under the fingers stay under them.
      const perPixel = (held[1] - held[0]) / Math.max(20, b - a);
      zoom(board, held[0] - a * perPixel, held[0] + (width() - a) * perPixel);
    }
    held = null;
    fingers.delete(e.pointerId);
    if (fingers.size === 0) setCursor(u, -10);
  };
  u.over.addEventListener("pointerup", end);
  u.over.addEventListener("pointercancel", end);
}

/**
 * Moves the cursor of all charts.
 * @param {Plot} u
 * @param {number} left
 */
function setCursor(u, left) {
  for (const other of uPlot.sync("page").plots) {
    const inside = left >= 0 && left <= u.over.clientWidth;
    other.setCursor({ left: inside ? other.valToPos(u.posToVal(left, "x"), "x") : -10, top: inside ? 10 : -10 });
  }
}

/**
 * Arrows move the cursor, with Shift they select; Enter zooms in on what is
 * selected. True: the key was meant for the chart.
 * @param {Plot} u
 * @param {Board} board
 * @param {KeyboardEvent} e
 */
export function key(u, board, e) {
  const { clientWidth } = u.over;
  const at = u.cursor.left != null && u.cursor.left >= 0 ? u.cursor.left : clientWidth;
  if (e.key === "Enter" && u.select.width > 0) {
    const from = u.posToVal(u.select.left, "x");
    const to = u.posToVal(u.select.left + u.select.width, "x");
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    zoom(board, from, to);
    return true;
  }
  if (e.key !== "ArrowLeft" && e.key !== "ArrowRight") return false;
  const by = (e.key === "ArrowLeft" ? -1 : 1) * Math.max(1, clientWidth / 60);
  const next = Math.min(clientWidth, Math.max(0, at + by));
  if (e.shiftKey) {
    const { left, width } = u.select;
    const anchor = width === 0 ? at : Math.abs(left - at) < 1 ? left + width : left;
    u.setSelect(
      { left: Math.min(anchor, next), top: 0, width: Math.abs(next - anchor), height: u.over.clientHeight },
      false,
    );
  }
  setCursor(u, next);
  return true;
}
