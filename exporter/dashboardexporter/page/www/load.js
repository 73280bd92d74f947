// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Load tests, through the load generator's REST API.

import { differenceView, figures, reportView } from "#page/report.js";
import { clock, duration, text } from "#page/units.js";
import { html, nothing } from "#page/vendor/lit-html.js";

const API = "loadgen/api/v1";

/**
 * @typedef {object} Profile
 * @property {string} name
 * @property {string} schedule
 * @property {number} duration
 */

/**
 * See openapi.yaml of the load generator.
 * @typedef {object} Run
 * @property {string} id
 * @property {string} profile
 * @property {"starting" | "running" | "ended"} state
 * @property {string} schedule
 * @property {string} began
 * @property {string | null} ended
 * @property {string | null} reason
 * @property {number} elapsed
 * @property {number} duration
 * @property {number | null} rate
 * @property {number} in_flight
 * @property {{due: number, sent: number, ok: number, error: number, cancelled: number, dropped: number}} requests
 * @property {{p50: number | null, p95: number | null}} ttft
 */

/** @param {string} path @param {string} [method] @param {unknown} [body] */
async function call(path, method = "GET", body) {
  const response = await fetch(`${API}${path}`, {
    method,
    ...(body === undefined ? {} : { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }),
  }).catch(() => null);
  if (!response) throw new Error("the load generator does not answer");
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `the load generator answered ${response.status}`);
  return answer;
}

/** What is written in a field: a number, or nothing. @param {FormData} form @param {string} name */
const number = (form, name) => {
  const v = String(form.get(name) ?? "").trim();
  return v === "" ? undefined : Number(v);
};

export class Load {
  /** @type {Profile[]} */
  #profiles = [];
  /** @type {Run[]} */
  #runs = [];
  #problem = "";
  /** @type {{run: Run, report: any} | null} */
  #report = null;
  /** Ids of runs to be compared. @type {string[]} */
  #chosen = [];
  /** @type {[any, any] | null} */
  #compared = null;
  /** @type {EventSource | null} */
  #events = null;
  #following = "";
  #redraw = () => {};

  /** @param {() => void} redraw */
  async open(redraw) {
    this.#redraw = redraw;
    await this.#try(async () => {
      this.#profiles = (await call("/profiles")).profiles;
      await this.#list();
    });
  }

  close() {
    this.#events?.close();
    this.#events = null;
    this.#following = "";
    this.#report = null;
    this.#compared = null;
  }

  /** @param {() => Promise<void>} act */
  async #try(act) {
    this.#problem = "";
    try {
      await act();
    } catch (error) {
      this.#problem = /** @type {Error} */ (error).message;
    }
    this.#redraw();
  }

  async #list() {
    this.#runs = (await call("/runs")).runs;
    const active = this.#runs.find((r) => r.state !== "ended");
    if (active) this.#follow(active.id);
  }

  /** @param {string} id */
  #follow(id) {
    if (this.#following === id) return;
    this.#events?.close();
    this.#following = id;
    const events = new EventSource(`${API}/runs/${encodeURIComponent(id)}/events`);
    this.#events = events;
    const take = (/** @type {MessageEvent} */ e) => {
      /** @type {Run} */
      const run = JSON.parse(e.data);
      this.#runs = this.#runs.map((r) => (r.id === run.id ? run : r));
      this.#redraw();
      // One is followed; a browser has few connections to spare.
      if (this.#runs.filter((r) => r.state !== "ended").length > 1) this.#list().then(this.#redraw, () => {});
    };
    events.addEventListener("progress", take);
    events.addEventListener("end", (e) => {
      events.close();
      this.#following = "";
      take(e);
    });
    events.addEventListener("error", () => {
      // The list says how it stands, once it can be asked again.
      events.close();
      this.#following = "";
      setTimeout(() => this.#events === events && this.#try(() => this.#list()), 2000);
    });
  }

  /** @param {Event} e */
  #start(e) {
    e.preventDefault();
    const form = new FormData(/** @type {HTMLFormElement} */ (e.target));
    const want = {
      profile: form.get("profile"),
      rate: number(form, "rate"),
      users: number(form, "users"),
      duration: number(form, "duration"),
    };
    this.#try(async () => {
      await call("/runs", "POST", want);
      await this.#list();
    });
  }

  /** @param {Event} e @param {Run} run */
  #change(e, run) {
    e.preventDefault();
    const form = new FormData(/** @type {HTMLFormElement} */ (e.target));
    this.#try(async () => {
      await call(`/runs/${encodeURIComponent(run.id)}`, "PATCH", {
        rate: number(form, "rate"),
        over: number(form, "over") ?? 0,
      });
      await this.#list();
    });
  }

  /** @param {Run} run */
  #stop(run) {
    this.#try(async () => {
      await call(`/runs/${encodeURIComponent(run.id)}/stop`, "POST");
      await this.#list();
    });
  }

  /** @param {Run} run */
  #open(run) {
    this.#try(async () => {
      this.#report = { run, report: await call(`/runs/${encodeURIComponent(run.id)}/results`) };
      this.#compared = null;
    });
  }

  #compare() {
    this.#try(async () => {
      const [a, b] = await Promise.all(this.#chosen.map((id) => call(`/runs/${encodeURIComponent(id)}/results`)));
      this.#compared = [a, b];
      this.#report = null;
    });
  }

  /** @param {string} id */
  #choose(id) {
    this.#chosen = this.#chosen.includes(id) ? this.#chosen.filter((c) => c !== id) : [...this.#chosen, id].slice(-2);
    // The earlier one is A.
    this.#chosen.sort((a, b) => this.#began(a) - this.#began(b));
    this.#redraw();
  }

  /** @param {string} id */
  #began(id) {
    return Date.parse(this.#runs.find((r) => r.id === id)?.began ?? "") || 0;
  }

  view() {
    const active = this.#runs.filter((r) => r.state !== "ended");
    const ended = this.#runs.filter((r) => r.state === "ended");
    return html`
      ${this.#problem ? html`<p class="problem" role="alert">${this.#problem}</p>` : nothing}
      ${active.map((r) => this.#active(r))}
      ${this.#form()}
      ${ended.length ? this.#ended(ended) : nothing}
      ${this.#report ? html`<div class="run"><h3>Report of ${this.#report.run.profile}, ${clock(Date.parse(this.#report.run.began))}</h3>${reportView(this.#report.report)}</div>` : nothing}
      ${
        this.#compared
          ? html`<div class="run"><h3>A and B</h3>${differenceView(
              figures(this.#compared[0]).map((f, i) => ({
                ...f,
                a: f.value,
                b: figures(/** @type {[any, any]} */ (this.#compared)[1])[i]?.value ?? null,
              })),
              "Differences of two load runs",
            )}</div>`
          : nothing
      }`;
  }

  #form() {
    if (this.#profiles.length === 0) {
      return html`<p class="muted">There are no profiles: declare some under profiles of the extension loadgen.</p>`;
    }
    return html`<form class="form" @submit=${(/** @type {Event} */ e) => this.#start(e)}>
      <label>profile <select name="profile">${this.#profiles.map((p) => html`<option value=${p.name}>${p.name}: ${p.schedule}</option>`)}</select></label>
      <label>requests per second <input type="number" name="rate" min="0.01" step="any" placeholder="as it says"></label>
      <label>or users <input type="number" name="users" min="1" step="1" placeholder="as it says"></label>
      <label>seconds <input type="number" name="duration" min="1" step="any" placeholder="as it says"></label>
      <button class="primary">Start</button>
    </form>`;
  }

  /** @param {Run} run */
  #active(run) {
    const { requests: c } = run;
    return html`<div class="run">
      <h3>${run.profile} · ${run.state} · ${run.schedule}</h3>
      <progress aria-label="Elapsed" max=${run.duration} .value=${Math.min(run.elapsed, run.duration)}></progress>
      <p class="figures">
        <span>${duration(run.elapsed)} of ${duration(run.duration)}</span>
        ${run.rate === null ? nothing : html`<span><b>${text(run.rate, "requests/s")}</b></span>`}
        <span><b>${run.in_flight}</b> in flight</span>
        <span><b>${c.ok}</b> of ${c.due} well</span>
        <span class=${c.error ? "worse" : ""}><b>${c.error}</b> failed</span>
        <span class=${c.dropped ? "worse" : ""}><b>${c.dropped}</b> dropped</span>
        <span>first token <b>${text(run.ttft.p50, "s")}</b>, P95 <b>${text(run.ttft.p95, "s")}</b></span>
      </p>
      <form class="form" @submit=${(/** @type {Event} */ e) => this.#change(e, run)}>
        ${
          run.rate === null
            ? nothing
            : html`<label>requests per second <input type="number" name="rate" min="0.01" step="any" required></label>
                <label>within seconds <input type="number" name="over" min="0" step="any" placeholder="at once"></label>
                <button>Change the rate</button>`
        }
        <button type="button" class="primary" @click=${() => this.#stop(run)}>Stop</button>
      </form>
    </div>`;
  }

  /** @param {Run[]} runs */
  #ended(runs) {
    return html`<h3>Runs that ended</h3>
      <table><caption class="unseen">Load runs that ended</caption>
      <thead><tr><th scope="col">began</th><th scope="col">profile</th><th scope="col">schedule</th><th scope="col">end</th>
        <th scope="col" class="number">well</th><th scope="col" class="number">failed</th><th scope="col" class="number">first token</th><th scope="col" class="number">P95</th>
        <th scope="col"><span class="unseen">report</span></th><th scope="col">compare</th></tr></thead>
      <tbody>${runs.map(
        (
          r,
        ) => html`<tr><td>${clock(Date.parse(r.began))}</td><td>${r.profile}</td><td>${r.schedule}</td><td>${r.reason}</td>
          <td class="number">${r.requests.ok}</td><td class="number">${r.requests.error}</td>
          <td class="number">${text(r.ttft.p50, "s")}</td><td class="number">${text(r.ttft.p95, "s")}</td>
          <td><button class="quiet" @click=${() => this.#open(r)}>report</button>
            <a class="quiet" href="${API}/runs/${encodeURIComponent(r.id)}/report" download="report.md">Markdown</a></td>
          <td><input type="checkbox" aria-label="Compare the run of ${clock(Date.parse(r.began))}" .checked=${this.#chosen.includes(r.id)}
            @change=${() => this.#choose(r.id)}></td></tr>`,
      )}</tbody></table>
      <p class="actions"><button ?disabled=${this.#chosen.length !== 2} @click=${() => this.#compare()}>Compare the two that are marked</button></p>`;
  }
}
