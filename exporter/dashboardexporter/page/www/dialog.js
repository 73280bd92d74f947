// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// The one dialog of the page.

import { html, render } from "#page/vendor/lit-html.js";

/** @type {(() => unknown) | null} */
let content = null;
let title = "";
/** @type {(() => void) | undefined} */
let closed;
let listening = false;

const element = () => /** @type {HTMLDialogElement} */ (document.getElementById("dialog"));

/**
 * @param {string} heading
 * @param {() => unknown} view is called for each redraw
 * @param {() => void} [onClose]
 */
export function openDialog(heading, view, onClose) {
  const dialog = element();
  if (dialog.open) closed?.();
  title = heading;
  content = view;
  closed = onClose;
  if (!listening) {
    listening = true;
    dialog.addEventListener("close", () => {
      content = null;
      closed?.();
      closed = undefined;
      render("", dialog);
    });
    dialog.addEventListener("click", (e) => {
      if (e.target === dialog) dialog.close();
    });
  }
  redrawDialog();
  if (!dialog.open) dialog.showModal();
}

export function redrawDialog() {
  if (!content) return;
  render(
    html`<div class="sheet">
      <div class="top"><h2 id="dialog-title">${title}</h2>
        <button class="icon" @click=${() => element().close()} aria-label="Close" title="Close (Esc)">✕</button></div>
      <div class="body" tabindex="0" role="region" aria-labelledby="dialog-title">${content()}</div>
    </div>`,
    element(),
  );
}

export const dialogIsOpen = () => content !== null;
export const closeDialog = () => element().close();
