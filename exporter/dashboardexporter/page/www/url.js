// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// The address of the page says what it shows, so that it can be shared.

/**
 * @typedef {object} Place
 * @property {View} view
 * @property {boolean} overview the table of servers was asked for
 * @property {string} compare two windows: "end,window~end,window"
 */

export const DEFAULT_WINDOW = 300;

/** @param {string} search @returns {Place} */
export function parse(search) {
  const q = new URLSearchParams(search);
  const window = Number(q.get("window"));
  const end = Number(q.get("end"));
  return {
    view: {
      server: q.get("server") ?? "",
      gpus: q.getAll("gpu"),
      window: Number.isInteger(window) && window >= 10 && window <= 86400 ? window : DEFAULT_WINDOW,
      end: Number.isInteger(end) && end > 0 ? end : null,
    },
    overview: q.has("servers"),
    compare: q.get("compare") ?? "",
  };
}

/** @param {Place} place */
export function build(place) {
  const q = new URLSearchParams();
  if (place.overview) q.set("servers", "");
  if (place.view.server) q.set("server", place.view.server);
  for (const g of place.view.gpus) q.append("gpu", g);
  if (place.view.window !== DEFAULT_WINDOW || place.view.end !== null) q.set("window", String(place.view.window));
  if (place.view.end !== null) q.set("end", String(place.view.end));
  if (place.compare) q.set("compare", place.compare);
  // These two are allowed in a query, and read better.
  const s = q.toString().replaceAll("%3A", ":").replaceAll("%2F", "/").replace("servers=", "servers");
  return s ? `?${s}` : "";
}

/**
 * What the collector is asked for.
 * @param {View} view
 * @param {number} points
 */
export function viewQuery(view, points) {
  const q = new URLSearchParams();
  if (view.server) q.set("server", view.server);
  for (const g of view.gpus) q.append("gpu", g);
  q.set("window", String(view.window));
  q.set("points", String(points));
  if (view.end !== null) q.set("end", String(view.end));
  return q.toString();
}
