// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// The connection: a snapshot, then frames; again after an interruption.

/**
 * @typedef {object} Handlers
 * @property {(snapshot: Snapshot) => void} snapshot
 * @property {(frame: Frame) => boolean} frame false: a new snapshot is needed
 * @property {(version: string) => void} version of the collector, at each connection
 * @property {(text: string) => void} link "live", or what is wrong
 */

/** Milliseconds between attempts. */
const FIRST = 500;
const LONGEST = 15_000;
/** The collector sends a frame each second; so long without one is worth a word. */
const SILENCE = 5_000;

/** The panels that a screen shows first; those of a long window are asked for before all others. */
const FIRST_PANELS = 9;

/** With some randomness, so that many pages do not come back together. @param {number} attempt */
export const backoff = (attempt, random = Math.random()) =>
  Math.min(LONGEST, FIRST * 2 ** Math.min(attempt, 10)) * (0.75 + random / 2);

export class Stream {
  /** @type {EventSource | null} */
  #source = null;
  #timer = 0;
  #watch = 0;
  #attempt = 0;
  /** Counts connections: what an earlier one still sends is not for us. */
  #generation = 0;
  #query = "";
  #long = false;
  #seq = 0;
  #open = false;

  /** @param {Handlers} handlers */
  constructor(handlers) {
    this.handlers = handlers;
  }

  /**
   * Begins anew with a view.
   * @param {string} query
   * @param {boolean} live
   * @param {boolean} [long] its window takes the collector a while: the first panels come first
   */
  async start(query, live, long = false) {
    this.stop();
    this.#query = query;
    this.#long = long;
    this.#open = true;
    await this.#snapshot(live);
  }

  /** No longer wanted, such as of a page that nobody sees. */
  stop() {
    this.#open = false;
    this.#generation++;
    clearTimeout(this.#timer);
    clearTimeout(this.#watch);
    this.#source?.close();
    this.#source = null;
  }

  /** Goes on where it stopped. */
  resume() {
    if (this.#open || !this.#query) return;
    this.#open = true;
    this.#connect();
  }

  /** @param {boolean} live */
  async #snapshot(live) {
    const generation = this.#generation;
    try {
      if (this.#long) {
        const part = await this.#fetch(`${this.#query}&panels=${FIRST_PANELS}`);
        if (generation !== this.#generation) return;
        this.#long = false;
        this.handlers.snapshot(part);
      }
      const snapshot = await this.#fetch(this.#query);
      if (generation !== this.#generation) return;
      this.#seq = snapshot.seq;
      this.#attempt = 0;
      this.handlers.snapshot(snapshot);
      this.handlers.link("live");
      if (live) this.#connect();
    } catch (error) {
      if (generation !== this.#generation) return;
      // A fetch that found nobody says little that helps.
      const text =
        error instanceof TypeError ? "the collector does not answer" : String(/** @type {Error} */ (error).message);
      this.#retry(text, () => this.#snapshot(live));
    }
  }

  /** @param {string} query @returns {Promise<Snapshot>} */
  async #fetch(query) {
    const response = await fetch(`live/snapshot?${query}`);
    if (!response.ok) {
      const problem = await response.json().catch(() => ({}));
      throw new Error(problem.error ?? `the collector answered ${response.status}`);
    }
    return response.json();
  }

  #connect() {
    const generation = ++this.#generation;
    const source = new EventSource(`live/stream?${this.#query}&seq=${this.#seq}`);
    this.#source = source;
    const mine = () => generation === this.#generation;
    source.addEventListener("hello", (e) => {
      if (!mine()) return;
      this.#attempt = 0;
      this.handlers.version(JSON.parse(e.data).version);
      this.handlers.link("live");
      this.#listen();
    });
    source.addEventListener("frame", (e) => {
      if (!mine()) return;
      /** @type {Frame} */
      const frame = JSON.parse(e.data);
      this.#listen();
      if (this.handlers.frame(frame)) this.#seq = frame.seq;
      else this.#resync();
    });
    source.addEventListener("resync", () => mine() && this.#resync());
    source.addEventListener("gone", () => mine() && this.#lost("the collector has stopped"));
    // The browser's own way to reconnect knows neither a pause nor the last number.
    source.addEventListener("error", () => mine() && this.#lost("connection lost"));
  }

  #resync() {
    this.#source?.close();
    this.#source = null;
    this.#generation++;
    clearTimeout(this.#watch);
    this.#snapshot(true);
  }

  /** @param {string} why */
  #lost(why) {
    this.#source?.close();
    this.#source = null;
    this.#generation++;
    clearTimeout(this.#watch);
    this.#retry(why, () => this.#connect());
  }

  /** @param {string} why @param {() => void} again */
  #retry(why, again) {
    const wait = backoff(this.#attempt++);
    this.handlers.link(`${why}; trying again`);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(again, wait);
  }

  #listen() {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => this.handlers.link("connected, but no data comes"), SILENCE);
  }
}
