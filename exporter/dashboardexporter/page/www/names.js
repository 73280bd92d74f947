// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The name of a series without what all of the panel have in common, or what the
 * page calls by another name: a GPU has its number, and the only one has none.
 * @param {import("#page/store.js").Series} series
 * @param {string[]} gpus
 */
export function shortName(series, gpus) {
  const { hw_id: id, hw_name: model } = series.labels;
  let name = series.name;
  if (model) name = name.replace(model, "");
  if (id) name = name.replace(id, gpus.length > 1 ? `GPU ${Math.max(0, gpus.indexOf(id))}` : model ? "" : "GPU");
  name = name
    .replaceAll("_", " ")
    .replace(/\s+/g, " ")
    .trim()
    .replace(/ (?:of|on)$/, "");
  return name || model || series.name;
}
