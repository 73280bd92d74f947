// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// The load generator's REST API, without a load generator.

const json = (res, body, status = 200) => {
  res.writeHead(status, { "Content-Type": "application/json", "Cache-Control": "no-store" });
  res.end(JSON.stringify(body));
};

const histogram = (p50) => ({ count: 812, p50, p95: p50 * 2.4, p99: p50 * 3.3, max: p50 * 4.1, mean: p50 * 1.2 });

export class LoadMock {
  constructor() {
    this.runs = [];
    this.add("chat", 1.5, 60).began = Date.now() - 3_600_000;
    this.add("chat", 3, 60).began = Date.now() - 1_800_000;
  }

  add(profile, rate, duration) {
    const run = { id: `run-${this.runs.length + 1}`, profile, rate, duration, began: Date.now(), stopped: null };
    this.runs.push(run);
    return run;
  }

  show(run) {
    const end = run.stopped ?? run.began + run.duration * 1000;
    const ended = Date.now() >= end;
    const elapsed = (Math.min(Date.now(), end) - run.began) / 1000;
    const due = Math.floor(elapsed * run.rate);
    return {
      id: run.id,
      profile: run.profile,
      state: ended ? "ended" : "running",
      schedule: `${run.rate} requests/s`,
      began: new Date(run.began).toISOString(),
      ended: ended ? new Date(end).toISOString() : null,
      reason: ended ? (run.stopped ? "stopped" : "done") : null,
      elapsed,
      duration: run.duration,
      rate: ended ? null : run.rate,
      in_flight: ended ? 0 : Math.ceil(run.rate * 2),
      requests: { due, sent: due, ok: Math.max(0, due - 4), error: due > 50 ? 1 : 0, cancelled: 0, dropped: 0 },
      ttft: { p50: elapsed > 2 ? 0.3 + run.rate * 0.1 : null, p95: elapsed > 2 ? 0.8 + run.rate * 0.3 : null },
    };
  }

  report(run) {
    const s = this.show(run);
    const k = 0.5 + run.rate / 2;
    return {
      generator: { limited: false, note: "requests went out 0.4 ms late at the 99th percentile" },
      run: {
        version: "mock",
        url: "http://localhost:8080",
        started: s.began,
        schedule: s.schedule,
        duration: run.duration,
        warm_up: 5,
        tail: 2,
        ended: s.reason,
      },
      workload: {
        hash: "ab12",
        endpoint: "/v1/chat/completions",
        model: "qwen",
        prompts: "synthetic, 512 tokens",
        seed: 1,
        max_tokens: "128",
        stream: true,
        ignore_eos: false,
      },
      requests: s.requests,
      requests_outside: s.requests,
      errors: s.requests.error ? { timeout: 1 } : {},
      error_examples: { timeout: "no answer within 60 s" },
      latency: {
        ttft: histogram(0.31 * k),
        tpot: histogram(0.024 * k),
        itl: histogram(0.023 * k),
        e2e: histogram(3.1 * k),
        lag: histogram(0.0004),
      },
      latency_from_send: { ttft: histogram(0.3 * k), e2e: histogram(3 * k) },
      server: { waiting: histogram(0.1 * k), prompt: histogram(0.2), prediction: histogram(2.7 * k) },
      tokens: { input: 41_000, output: 9_800, cached: 21_000, cache_hit_rate: 0.51, per_chunk: 1 },
      rates: { seconds: 55, requests: run.rate * 0.98, input_tokens: 760 * run.rate, output_tokens: 120 * run.rate },
      goodput: { objective: "ttft < 1s", requests: 700, share: 0.93 / k, per_second: run.rate * 0.9 },
      reconciliation: {
        prompt: { client: 1, server: 1, resolution: 1 },
        predicted: { client: 1, server: 1, resolution: 1 },
        agrees: true,
        note: "the server counted the same",
      },
      energy: { joules: 12_000, joules_per_output_token: 1.22, watts: 218, gpus: 1, source: "gpu" },
    };
  }

  serve(req, res, path) {
    const profiles = [
      { name: "chat", api: "chat", model: "", schedule: "1.5 requests/s", duration: 60, start: false },
      {
        name: "burst",
        api: "completion",
        model: "",
        schedule: "steps from 1 to 8 requests/s",
        duration: 120,
        start: false,
      },
    ];
    if (path === "/profiles") return json(res, { profiles });
    if (path === "/runs" && req.method === "GET")
      return json(res, { runs: this.runs.toReversed().map((r) => this.show(r)) });
    let body = "";
    req.on("data", (d) => {
      body += d;
    });
    req.on("end", () => {
      const want = body ? JSON.parse(body) : {};
      if (path === "/runs") {
        if (this.runs.some((r) => this.show(r).state === "running"))
          return json(res, { error: "another run is under way: stop it first" }, 409);
        return json(res, this.show(this.add(want.profile, want.rate ?? 1.5, want.duration ?? 60)), 201);
      }
      const [, id, what] = /^\/runs\/([^/]+)\/?(.*)$/.exec(path) ?? [];
      const run = this.runs.find((r) => r.id === id);
      if (!run)
        return json(res, { error: "no run has this id: GET /api/v1/runs lists those that are remembered" }, 404);
      if (what === "" && req.method === "PATCH") run.rate = want.rate;
      if (what === "stop") run.stopped = Date.now();
      if (what === "results") return json(res, this.report(run));
      if (what === "events") {
        res.writeHead(200, { "Content-Type": "text/event-stream" });
        const timer = setInterval(() => {
          const s = this.show(run);
          res.write(`event: ${s.state === "ended" ? "end" : "progress"}\ndata: ${JSON.stringify(s)}\n\n`);
          if (s.state === "ended") {
            clearInterval(timer);
            res.end();
          }
        }, 1000);
        return res.on("close", () => clearInterval(timer));
      }
      return json(res, this.show(run), what === "stop" ? 202 : 200);
    });
  }
}
