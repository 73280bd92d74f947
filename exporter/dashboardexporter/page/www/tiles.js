// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// The numbers at the top, each leading to its panel.

import { sparkline } from "#page/spark.js";
import { brief, format } from "#page/units.js";
import { html } from "#page/vendor/lit-html.js";

/**
 * The worst level whose threshold the value has reached.
 * @param {Threshold[] | null | undefined} thresholds
 * @param {number | null} value
 */
export function level(thresholds, value) {
  if (value === null) return "";
  const over = (thresholds ?? []).filter((t) => value >= t.value).map((t) => t.level);
  return over.includes("critical") ? "critical" : over.includes("warning") ? "warning" : "";
}

/**
 * @param {Tile[]} tiles
 * @param {import("#page/store.js").State} state
 */
export function tilesView(tiles, state) {
  const shown = tiles.filter((t) => state.tiles[t.id] && state.tiles[t.id].spark.some((v) => v !== null));
  return shown.map((t) => {
    const data = state.tiles[t.id];
    const f = format(data.value, t.unit);
    // The title says that it is of a token.
    const unit = f.unit.replace("s/tok", "s");
    const second = t.second && data.second !== null ? `${t.second.label} ${brief(data.second, t.second.unit)}` : "";
    return html`<a class="tile ${level(t.thresholds, data.value)}" href="#panel-${t.panel}" title=${t.help}>
      <span class="name">${t.title}</span>
      <span class="number"><b>${f.value}</b>${unit ? html` <i>${unit}</i>` : ""}</span>
      <span class="past">${sparkline(data.spark, 120, 24)}${second ? html`<small>${second.trim()}</small>` : ""}</span>
    </a>`;
  });
}
