// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { test } from "node:test";
import { Stream } from "#page/stream.js";

/** What was asked for of a collector that answers with the number of panels asked for. */
function collector() {
  /** @type {string[]} */
  const asked = [];
  const answer = (/** @type {string} */ url) => {
    asked.push(url);
    return Promise.resolve({
      ok: true,
      json: () => Promise.resolve({ seq: 7, panels: new URLSearchParams(url.split("?")[1]).get("panels") }),
    });
  };
  Object.assign(globalThis, { fetch: answer });
  return asked;
}

for (const [long, want] of /** @type {const} */ ([
  [true, ["9", null]],
  [false, [null]],
])) {
  test(`a ${long ? "long" : "short"} window has ${long ? "its first panels first" : "all panels at once"}`, async () => {
    const asked = collector();
    /** @type {unknown[]} */
    const shown = [];
    const stream = new Stream({
      snapshot: (s) => void shown.push(s.panels),
      frame: () => true,
      version: () => {},
      link: () => {},
    });
    await stream.start("window=1", false, long);
    assert.deepEqual(shown, want);
    assert.equal(asked.at(-1), "live/snapshot?window=1");
    stream.stop();
  });
}
