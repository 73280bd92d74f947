// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Load tests, through the load generator's REST API.

import { nothing } from "#page/vendor/lit-html.js";

export class Load {
  /** @param {() => void} _redraw */
  open(_redraw) {}
  close() {}
  view() {
    return nothing;
  }
}
