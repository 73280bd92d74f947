// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Two windows, or two load runs, side by side.

import { differenceView } from "#page/report.js";
import { createState, hasData, statistics } from "#page/store.js";
import { viewQuery } from "#page/url.js";
import { clock, duration, moment } from "#page/units.js";
import { html, nothing } from "#page/vendor/lit-html.js";

/** @typedef {import("#page/store.js").State} State */
/** @typedef {{from: number, to: number, text: string}} Span */

export class Compare {
  /** @param {Catalogue} catalogue @param {() => Theme} theme */
  constructor(catalogue, theme) {
    this.catalogue = catalogue;
    this.theme = theme;
  }
  /** @param {State | null} _live @param {string} _text @param {() => void} _redraw @param {(text: string) => void} _remember */
  open(_live, _text, _redraw, _remember) {}
  close() {}
  /** @param {State | null} _live @param {View} _view @param {[number, number]} _range */
  view(_live, _view, _range) {
    return nothing;
  }
}
