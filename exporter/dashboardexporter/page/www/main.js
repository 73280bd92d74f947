// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// The page: what is shown, and what a person can do about it.

import { Compare } from "#page/compare.js";
import { dialogIsOpen, openDialog, redrawDialog } from "#page/dialog.js";
import { inFrame } from "#page/frame.js";
import { aboutView, gpusView, headerView, WINDOWS } from "#page/header.js";
import { keyOf, keysView } from "#page/keys.js";
import { Lanes } from "#page/lanes.js";
import { Load } from "#page/load.js";
import { overviewView } from "#page/overview.js";
import { Panels } from "#page/panels.js";
import { reportPage } from "#page/report.js";
import { requestsView, requestView, runningView, titleOf } from "#page/requests.js";
import { applyFrame, createState, missingSources } from "#page/store.js";
import { Stream } from "#page/stream.js";
import { statisticsView } from "#page/table.js";
import { chosenTheme, nextTheme } from "#page/theme.js";
import { tilesView } from "#page/tiles.js";
import { duration, moment } from "#page/units.js";
import { build, DEFAULT_WINDOW, parse, viewQuery } from "#page/url.js";
import { html, nothing, render } from "#page/vendor/lit-html.js";
import { spoken, verdictView } from "#page/verdict.js";

/** @typedef {import("#page/store.js").State} State */

/** Milliseconds after which a page that nobody sees gives its stream back. */
const UNSEEN = 10_000;

const host = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** The steps that the collector rounds to, in seconds. */
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800];

/** @param {number} window @param {number} points */
const stepOf = (window, points) => STEPS.find((s) => window / s <= points) ?? STEPS[STEPS.length - 1];

class Page {
  /** @type {State | null} */
  live = null;
  /** What was zoomed into. @type {State | null} */
  past = null;
  /** @type {[number, number] | null} */
  range = null;
  /** @type {Set<string>} */
  paused = new Set();
  link = "connecting";
  why = false;
  allRequests = false;
  allEvents = false;
  points = 300;
  /** @type {import("#page/overview.js").Order} */
  order = { column: "", down: false };
  /** All that were seen, while only some are shown. @type {string[]} */
  gpus = [];
  theme = chosenTheme();
  #asked = 0;
  #arrived = false;

  /**
   * @param {Catalogue} catalogue
   * @param {boolean} offline
   */
  constructor(catalogue, offline) {
    this.catalogue = catalogue;
    this.offline = offline;
    this.place = offline ? parse("") : parse(location.search);
    /** The window to go back to from a zoom. */
    this.window = this.place.view.end === null ? this.place.view.window : DEFAULT_WINDOW;
    this.board = {
      theme: () => this.theme,
      range: () => this.shownRange(),
      annotations: () => this.shown()?.annotations ?? [],
      zoom: (/** @type {number} */ from, /** @type {number} */ to) => this.zoom(from, to),
      reset: () => this.reset(),
    };
    this.panels = new Panels(host("panels"), catalogue, this.board);
    this.panels.complete = () => {
      // The panel that the address names was not there when the browser looked for it.
      if (!this.#arrived && location.hash.startsWith("#panel-")) {
        document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
      }
      this.#arrived = true;
    };
    this.lanes = new Lanes(host("lanes"), this.board, (bar) =>
      bar.request ? this.openRequest(bar.request) : this.openRunning(bar),
    );
    this.compare = new Compare(catalogue, () => this.theme);
    this.load = new Load();
    this.stream = new Stream({
      snapshot: (s) => this.onSnapshot(s),
      frame: (f) => this.onFrame(f),
      version: (v) => this.onVersion(v),
      link: (text) => {
        this.link = text;
        inFrame(this.draw);
      },
    });
    /** @type {import("#page/keys.js").Key[]} */
    this.keys = [
      { key: "?", help: "this list", act: () => this.showKeys() },
      { key: "s", help: "statistics of all panels", act: () => this.showStatistics() },
      { key: "t", help: "light or dark", act: () => this.switchTheme() },
      { key: "Escape", shown: "Esc", help: "undo the zoom, back to live", act: () => this.reset() },
    ];
    if (!offline) {
      this.keys.push(
        { key: " ", shown: "Space", help: "pause, go on", act: () => this.pause() },
        ...WINDOWS.map((w, i) => ({
          key: String(i + 1),
          help: `the last ${duration(w)}`,
          act: () => this.setWindow(w),
        })),
        { key: "[", help: "half a window earlier", act: () => this.pan(-0.5) },
        { key: "]", help: "half a window later", act: () => this.pan(0.5) },
        { key: "+", help: "zoom in", act: () => this.scale(0.5) },
        { key: "-", help: "zoom out", act: () => this.scale(2) },
        { key: "n", help: "next server", act: () => this.nextServer(1) },
        { key: "p", help: "previous server", act: () => this.nextServer(-1) },
        { key: "o", help: "all servers", act: () => this.showServers() },
        { key: "c", help: "compare two windows or load runs", act: () => this.showCompare() },
      );
      if (catalogue.loadgen) this.keys.push({ key: "l", help: "load tests", act: () => this.showLoad() });
    }
  }

  shown() {
    return this.past ?? this.live;
  }

  /** @returns {[number, number]} */
  shownRange() {
    if (this.range) return this.range;
    const s = this.shown();
    return s ? [s.start, s.start + s.points * s.step] : [0, 1];
  }

  /** Several servers, and none was chosen. */
  get onlyServers() {
    return !this.offline && (this.place.overview || !this.place.view.server) && (this.live?.servers.length ?? 0) > 1;
  }

  /** What the stream shows: a zoom is another request. */
  liveView() {
    return { ...this.place.view, window: this.window, end: null };
  }

  start() {
    const width = Math.max(300, Math.min(document.documentElement.clientWidth - 24, 480) - 90);
    this.points = Math.max(60, Math.min(2000, Math.round(width)));
    this.listen();
    if (this.place.view.end !== null) {
      this.range = [this.place.view.end - this.place.view.window * 1000, this.place.view.end];
      this.fetchPast();
    }
    if (this.place.compare) this.showCompare();
    return this.stream.start(viewQuery(this.liveView(), this.points), true);
  }

  listen() {
    document.addEventListener("keydown", (e) => {
      // Space on a focused chart pauses; arrows there are the chart's own.
      if (dialogIsOpen() || e.defaultPrevented) return;
      const found = keyOf(this.keys, e);
      if (!found) return;
      e.preventDefault();
      found.act();
    });
    new ResizeObserver(() => inFrame(this.resize)).observe(document.documentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.theme = chosenTheme();
      this.applyTheme();
    });
    const charts = [host("lanes"), host("panels")];
    for (const area of charts) {
      area.addEventListener("pointerover", (e) => {
        const plot = /** @type {Element} */ (e.target).closest(".plot");
        this.setPaused("hover", Boolean(plot) && e.pointerType === "mouse");
      });
      area.addEventListener("pointerleave", () => this.setPaused("hover", false));
    }
    if (this.offline) return;
    addEventListener("popstate", () => this.goto(parse(location.search)));
    let unseen = 0;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(unseen);
      if (document.hidden) unseen = setTimeout(() => this.stream.stop(), UNSEEN);
      else this.stream.resume();
      this.setPaused("hidden", document.hidden);
    });
  }

  /** @param {string} reason @param {boolean} on */
  setPaused(reason, on) {
    if (this.paused.has(reason) === on) return;
    if (on) this.paused.add(reason);
    else this.paused.delete(reason);
    inFrame(this.draw);
  }

  pause() {
    this.setPaused("you", !this.paused.has("you"));
  }

  /** @param {string} version */
  onVersion(version) {
    // The collector was replaced: its page may speak another language.
    if (version !== this.catalogue.version) location.reload();
  }

  /** @param {Snapshot} snapshot */
  onSnapshot(snapshot) {
    if (snapshot.version && !this.offline) this.onVersion(snapshot.version);
    this.live = createState(snapshot);
    this.gpus = [...new Set([...this.gpus, ...this.live.gpus])];
    inFrame(this.draw);
  }

  /** @param {Frame} frame */
  onFrame(frame) {
    if (!this.live || !applyFrame(this.live, frame)) return false;
    inFrame(this.draw);
    return true;
  }

  restart() {
    const view = this.liveView();
    this.stream.start(viewQuery(view, this.points), true, view.window >= LONG);
  }

  /** @param {boolean} [replace] */
  remember(replace) {
    if (this.offline) return;
    const url = location.pathname + build(this.place);
    if (replace) history.replaceState(null, "", url);
    else history.pushState(null, "", url);
  }

  /** From the address, such as after going back. @param {import("#page/url.js").Place} place */
  goto(place) {
    const before = viewQuery(this.liveView(), 0);
    this.place = place;
    this.past = null;
    this.range = null;
    if (place.view.end === null) this.window = place.view.window;
    else {
      this.range = [place.view.end - place.view.window * 1000, place.view.end];
      this.fetchPast();
    }
    if (viewQuery(this.liveView(), 0) !== before) this.restart();
    inFrame(this.draw);
  }

  /** @param {number} from @param {number} to */
  zoom(from, to) {
    this.range = [from, to];
    if (!this.offline) {
      this.place.view.window = Math.min(86400, Math.max(10, Math.ceil((to - from) / 1000)));
      this.place.view.end = Math.round(to);
      this.remember();
      this.fetchPast();
    }
    inFrame(this.drawCharts);
    inFrame(this.draw);
  }

  reset() {
    if (!this.range) return;
    this.range = null;
    this.past = null;
    this.place.view.window = this.window;
    this.place.view.end = null;
    this.remember();
    inFrame(this.drawCharts);
    inFrame(this.draw);
  }

  /** @param {number} share of the window */
  pan(share) {
    const [from, to] = this.shownRange();
    const by = (to - from) * share;
    const now = this.live?.now ?? to;
    if (to + by >= now && this.range) this.reset();
    else if (to + by < now) this.zoom(from + by, to + by);
  }

  /** @param {number} factor */
  scale(factor) {
    const [from, to] = this.shownRange();
    const half = ((to - from) / 2) * factor;
    const middle = (from + to) / 2;
    this.zoom(Math.round(middle - half), Math.min(this.live?.now ?? to, Math.round(middle + half)));
  }

  /** The zoomed window, at its own resolution. */
  async fetchPast() {
    const asked = ++this.#asked;
    try {
      const response = await fetch(`live/snapshot?${viewQuery(this.place.view, this.points)}`);
      if (!response.ok) throw new Error(String(response.status));
      /** @type {Snapshot} */
      const snapshot = await response.json();
      if (asked !== this.#asked || this.place.view.end === null) return;
      this.past = createState(snapshot);
      inFrame(this.drawCharts);
    } catch {
      // What is there stays, at its coarser resolution.
    }
  }

  /** @param {number} seconds */
  setWindow(seconds) {
    this.window = seconds;
    this.place.view.window = seconds;
    this.place.view.end = null;
    this.range = null;
    this.past = null;
    this.remember();
    this.restart();
  }

  /** @param {string} id */
  setServer(id) {
    this.place.overview = false;
    this.place.view.server = id;
    this.place.view.gpus = [];
    this.gpus = [];
    this.remember();
    if (this.place.view.end !== null) this.fetchPast();
    this.restart();
    scrollTo({ top: 0 });
  }

  showServers() {
    if ((this.live?.servers.length ?? 0) < 2) return;
    this.place.overview = true;
    this.remember();
    inFrame(this.draw);
    scrollTo({ top: 0 });
  }

  /** @param {number} by */
  nextServer(by) {
    const list = this.live?.servers ?? [];
    if (list.length < 2) return;
    const at = list.findIndex((s) => s.id === this.live?.server);
    this.setServer(list[(at + by + list.length) % list.length].id);
  }

  /** @param {string[]} gpus */
  setGPUs(gpus) {
    this.place.view.gpus = gpus;
    this.remember();
    this.restart();
    if (this.place.view.end !== null) this.fetchPast();
  }

  /** @param {string} id */
  gpuName(id) {
    const at = this.gpus.indexOf(id);
    return `GPU ${at < 0 ? id : at}`;
  }

  switchTheme() {
    this.theme = nextTheme(this.theme);
    this.applyTheme();
  }

  applyTheme() {
    document.documentElement.dataset.theme = this.theme;
    inFrame(this.drawCharts);
    inFrame(this.draw);
  }

  showKeys() {
    openDialog("Keys", () => keysView(this.keys));
  }

  showStatistics() {
    openDialog("Statistics", () => {
      const s = this.shown();
      return s ? statisticsView(this.catalogue, s, this.shownRange()) : nothing;
    });
  }

  showCompare() {
    // Told first: the dialog draws at once.
    this.compare.open(this.place.compare, redrawDialog, (text) => {
      this.place.compare = text;
      this.remember(true);
    });
    openDialog(
      "Compare",
      () => this.compare.view(this.live, this.liveView(), this.shownRange()),
      () => {
        this.compare.close();
        this.place.compare = "";
        this.remember(true);
      },
    );
  }

  showLoad() {
    openDialog(
      "Load tests",
      () => this.load.view(),
      () => this.load.close(),
    );
    this.load.open(redrawDialog);
  }

  /** What runs, for as long as it does, and then what became of it. @param {import("#page/lanes.js").Bar} bar */
  openRunning(bar) {
    const { running } = bar;
    if (!running) return;
    openDialog(`Request of task ${running.task}`, () => {
      const same = (/** @type {{slot: number | null, task: number, server: string}} */ r) =>
        r.slot === running.slot && r.task === running.task && r.server === running.server;
      const now = this.live?.now ?? 0;
      const going = this.live?.running.find(same);
      if (going) return runningView(going, now);
      const ended = this.live?.requests.find(same);
      return ended
        ? requestView(ended, now, (text) => navigator.clipboard?.writeText(text))
        : html`<p>It has ended. Its log line has not come yet, or there is no log.</p>`;
    });
  }

  /** @param {RequestData} r */
  openRequest(r) {
    let copied = "";
    openDialog(titleOf(r), () => [
      requestView(r, this.live?.now ?? r.end, async (text) => {
        try {
          await navigator.clipboard.writeText(text);
          copied = "copied";
        } catch {
          copied = "the browser does not allow it: select the id and copy it";
        }
        redrawDialog();
      }),
      html`<p role="status">${copied}</p>`,
    ]);
  }

  resize = () => {
    this.panels.resize();
    this.lanes.resize();
    if (this.offline || !this.live) return;
    const width = this.panels.width();
    if (width <= 0) return;
    const points = Math.max(60, Math.min(2000, Math.round(width)));
    // Another snapshot only where it has another resolution.
    const changed = stepOf(this.window, points) !== stepOf(this.window, this.points);
    this.points = points;
    if (changed) this.restart();
  };

  /** Everything that is not a chart, and the charts if they move. */
  draw = () => {
    const { live } = this;
    if (document.hidden) return;
    this.#drawHeader();
    if (!live) {
      render(html`<p class="empty">${this.link}</p>`, host("notice"));
      host("notice").hidden = false;
      return;
    }
    if (this.paused.has("you")) return;
    this.#drawNumbers(live);
    // A zoom stands still; what is under the cursor does not run away.
    if (this.paused.has("hover") || (this.range && !this.offline && this.past)) return;
    this.drawCharts();
  };

  drawCharts = () => {
    const shown = this.shown();
    if (!shown || this.onlyServers) return;
    // Shown first: what is hidden has no width.
    const lanes = host("lanes");
    lanes.hidden = false;
    lanes.hidden = !this.lanes.update(shown);
    this.panels.update(shown);
    this.resize();
  };

  #drawHeader() {
    const { live } = this;
    /** @type {import("#page/header.js").Bar} */
    const bar = {
      view: this.place.view,
      theme: this.theme,
      paused: [...this.paused],
      link: this.link,
      range: this.range,
      offline: this.offline,
      loadgen: this.catalogue.loadgen && !this.offline,
      several: (live?.servers.length ?? 0) > 1,
      exportURL: `live/export?${viewQuery(this.place.view, this.points)}`,
    };
    /** @type {import("#page/header.js").Actions} */
    const act = {
      server: (id) => this.setServer(id),
      overview: () => this.showServers(),
      window: (w) => this.setWindow(w),
      pause: () => this.pause(),
      live: () => this.reset(),
      theme: () => this.switchTheme(),
      statistics: () => this.showStatistics(),
      compare: () => this.showCompare(),
      load: () => this.showLoad(),
      keys: () => this.showKeys(),
      about: () => openDialog("Server", () => (this.live ? aboutView(this.catalogue, this.live) : nothing)),
      gpus: (g) => this.setGPUs(g),
    };
    const state = live ?? EMPTY;
    render(headerView(this.catalogue, state, bar, act, this.onlyServers), host("header"));
    if (live) document.title = `${live.server || "llama-server"} · ${live.facts.state ?? "live"}`;
  }

  /** @param {State} live */
  #drawNumbers(live) {
    const { catalogue } = this;
    const only = this.onlyServers;
    document.documentElement.classList.toggle("only-servers", only);
    const nobody = !this.offline && live.servers.length === 0 && ![...live.panels.values()].some((p) => p.size);
    const notice = host("notice");
    notice.hidden = !nobody;
    render(
      nobody
        ? html`<p class="empty"><strong>No data has come yet.</strong> What is missing, and what to do, is listed below.</p>`
        : nothing,
      notice,
    );
    render(
      verdictView(
        live,
        this.why,
        () => {
          this.why = !this.why;
          inFrame(this.draw);
        },
        only,
      ),
      host("verdict"),
    );
    const overview = host("overview");
    overview.hidden = !only;
    if (only) {
      render(
        overviewView(
          catalogue.overview ?? [],
          live,
          this.order,
          (column) => {
            const down = this.order.column === column ? !this.order.down : column !== "id";
            this.order = { column, down };
            inFrame(this.draw);
          },
          (server) => build({ ...this.place, overview: false, view: { ...this.place.view, server } }),
          (e, server) => {
            e.preventDefault();
            this.setServer(server);
          },
        ),
        overview,
      );
    }
    for (const id of ["tiles", "panels", "requests", "events", "missing"]) host(id).hidden = only;
    if (only) {
      host("lanes").hidden = true;
      this.#say(`${live.servers.length} servers.`);
      return;
    }
    render(tilesView(catalogue.tiles ?? [], live), host("tiles"));
    const csv = this.offline ? "" : `live/requests?server=${encodeURIComponent(live.server)}&limit=1000&format=csv`;
    render(
      requestsView(
        live,
        this.allRequests,
        () => {
          this.allRequests = !this.allRequests;
          inFrame(this.draw);
        },
        (r) => this.openRequest(r),
        csv,
      ),
      host("requests"),
    );
    render(this.#events(live), host("events"));
    render(this.#missing(live), host("missing"));
    const extra = this.panels.extra("gpu");
    if (extra && !this.offline) {
      render(
        gpusView(
          this.gpus,
          live.gpus,
          (id) => this.gpuName(id),
          (g) => this.setGPUs(g),
        ),
        extra,
      );
    }
    this.#say(spoken(live));
    if (dialogIsOpen()) redrawDialog();
  }

  /** @param {string} text */
  #say(text) {
    const p = host("spoken");
    if (p.textContent !== text) p.textContent = text;
  }

  /** @param {State} live */
  #events(live) {
    const list = live.annotations.slice().sort((a, b) => b.time - a.time);
    if (list.length === 0) return nothing;
    return html`<h2>Events</h2><ul class="events">${list
      .slice(0, this.allEvents ? list.length : 6)
      .map(
        (a) =>
          html`<li class="mark ${a.kind}"><time>${moment(a.time, live.now)}</time> <span class="kind">${a.kind}</span> ${a.text}${
            a.end === null
              ? html` <i>goes on</i>`
              : a.end - a.time >= 1000
                ? html` <i>${duration((a.end - a.time) / 1000)}</i>`
                : nothing
          }</li>`,
      )}</ul>${
      list.length > 6
        ? html`<button class="quiet" @click=${() => {
            this.allEvents = !this.allEvents;
            inFrame(this.draw);
          }}>${this.allEvents ? "fewer" : `all ${list.length}`}</button>`
        : nothing
    }`;
  }

  /** @param {State} live */
  #missing(live) {
    const { sources, quiet } = missingSources(this.catalogue, live);
    if (live.partial) return html`<p class="muted">More is being read…</p>`;
    if (sources.length === 0 && quiet.length === 0) return nothing;
    if (DUMB.has(String(live.facts.state)))
      return html`<h2>Not shown</h2><p>What the server offers is not known while it is ${live.facts.state}.</p>`;
    const titles = (/** @type {Panel[]} */ list) => list.map((p) => p.title).join(", ");
    return html`<h2>Not shown</h2><ul>
      ${sources.map(({ source, panels }) => html`<li><b>${source.title}</b>: ${source.cure} <span class="muted">(${titles(panels)})</span></li>`)}
      ${quiet.length ? html`<li><b>No values in this window</b>: <span class="muted">${titles(quiet)}</span></li>` : nothing}
    </ul>`;
  }
}

/** Seconds of a window from which on the first panels are asked for first. */
const LONG = 3600;

/** States of a server in which it says nothing about itself. */
const DUMB = new Set(["unreachable", "error", "unauthorized", "loading"]);

const EMPTY = createState({
  version: "",
  seq: 0,
  now: 0,
  server: "",
  gpus: [],
  step: 1000,
  start: 0,
  points: 1,
  servers: [],
  facts: {},
  sources: {},
  tiles: {},
  panels: {},
  rules: [],
  annotations: [],
  requests: [],
  running: [],
});

/** @param {Catalogue} catalogue @param {boolean} offline */
function show(catalogue, offline) {
  const page = new Page(catalogue, offline);
  page.applyTheme();
  // For tests, which look through uPlot's own mapping from values to pixels.
  Object.assign(globalThis, { llamaPage: page });
  return page;
}

async function main() {
  document.documentElement.dataset.theme = chosenTheme();
  const file = document.getElementById("data");
  if (file) {
    const data = JSON.parse(file.textContent ?? "{}");
    if (data.kind === "load") {
      reportPage(data);
      return;
    }
    const page = show(data.catalogue, true);
    page.link = "live";
    page.listen();
    page.onSnapshot(data.snapshot);
    return;
  }
  for (let attempt = 0; ; attempt++) {
    try {
      const response = await fetch("live/catalogue");
      if (!response.ok) throw new Error(`the collector answered ${response.status}`);
      await show(await response.json(), false).start();
      return;
    } catch (error) {
      const why = error instanceof TypeError ? "the collector does not answer" : String(error);
      host("notice").hidden = false;
      render(html`<p class="empty">${why}; trying again</p>`, host("notice"));
      await new Promise((done) => setTimeout(done, Math.min(10_000, 1000 * 2 ** attempt)));
    }
  }
}

main();
