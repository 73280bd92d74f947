// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Serves the page with invented data, to look at while working on it:
//
//   node test/serve.js [port] [catalogue.json]
//
// /         one server            /fleet/   50 servers      /empty/  nothing
// /gpus/    a server with 8 GPUs  /router/  12 models
//
// With ?axe, axe-core checks the page and writes what it found into it.

import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { LoadMock } from "./loadmock.js";
import { CATALOGUE, Mock, modes, seqOf, useCatalogue } from "./mock.js";

const www = fileURLToPath(new URL("../www/", import.meta.url));
const TYPES = {
  html: "text/html; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  css: "text/css; charset=utf-8",
};

export function importMap(of = (name) => `./assets/${name}`) {
  const names = [...readdirSync(www), ...readdirSync(`${www}vendor`).map((n) => `vendor/${n}`)];
  const modules = names.filter((n) => n.endsWith(".js") && !n.endsWith(".min.js") && n !== "main.js").sort();
  return JSON.stringify({ imports: Object.fromEntries(modules.map((n) => [`#page/${n}`, of(n)])) });
}

function page(axe) {
  const map = importMap();
  const hash = createHash("sha256").update(map).digest("base64");
  let html = readFileSync(`${www}index.html`, "utf8").replace("IMPORTMAP", () => map);
  let policy = `default-src 'none'; script-src 'self' 'sha256-${hash}'; style-src 'self'; connect-src 'self'; img-src 'self' data:; require-trusted-types-for 'script'; trusted-types lit-html; frame-ancestors 'none'; base-uri 'none'; form-action 'none'`;
  if (axe) {
    policy = "";
    html = html.replace(
      "</body>",
      () => `<script src="assets/axe.js"></script><script>setTimeout(() => axe.run().then((r) => {
      const pre = document.createElement("pre"); pre.id = "axe";
      pre.textContent = JSON.stringify(r.violations.map((v) => [v.id, v.help, v.nodes.map((n) => n.html.slice(0, 200) + " " + n.failureSummary)]), null, 1);
      document.body.append(pre); }), 2500);</script></body>`,
    );
  }
  return { html, policy };
}

/** @param {import("node:http").ServerResponse} res */
function json(res, body, status = 200) {
  res.writeHead(status, { "Content-Type": "application/json", "Cache-Control": "no-store" });
  res.end(JSON.stringify(body));
}

function stream(res, mock, view, seq) {
  res.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
  const send = (event, data, id) =>
    res.write(`${id ? `id: ${id}\n` : ""}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  let next = seq + 1;
  send("hello", { version: CATALOGUE.version, seq: seqOf(Date.now()) });
  const timer = setInterval(() => {
    const now = Date.now();
    if (seqOf(now) - next > 60) return send("resync", {});
    while (next <= seqOf(now)) {
      const frame = mock.frame(view, next * 1000);
      send("frame", frame, frame.seq);
      next++;
    }
  }, 250);
  res.on("close", () => clearInterval(timer));
}

export function server() {
  const mocks = Object.fromEntries(modes.map((m) => [m, new Mock(m)]));
  const load = new LoadMock();
  return createServer((req, res) => {
    const url = new URL(req.url ?? "/", "http://localhost");
    const mode = modes.find((m) => url.pathname.startsWith(`/${m}/`)) ?? "one";
    const path = url.pathname.startsWith(`/${mode}/`) ? url.pathname.slice(mode.length + 1) : url.pathname;
    const mock = mocks[mode];
    const query = url.searchParams;
    if (path === "/") {
      const { html, policy } = page(query.has("axe"));
      res.writeHead(200, { "Content-Type": TYPES.html, ...(policy ? { "Content-Security-Policy": policy } : {}) });
      return res.end(html);
    }
    if (path === "/assets/axe.js") {
      res.writeHead(200, { "Content-Type": TYPES.js });
      return res.end(readFileSync(new URL("../node_modules/axe-core/axe.min.js", import.meta.url)));
    }
    if (path.startsWith("/assets/") && !path.includes("..")) {
      const file = www + path.slice("/assets/".length);
      if (!existsSync(file)) return json(res, { error: "no such file" }, 404);
      res.writeHead(200, { "Content-Type": TYPES[file.split(".").pop()] ?? "application/octet-stream" });
      return res.end(readFileSync(file));
    }
    if (path === "/live/catalogue") return json(res, CATALOGUE);
    if (path === "/live/snapshot")
      return json(res, mock.snapshot(mock.view(query), Math.floor(Date.now() / 1000) * 1000));
    if (path === "/live/stream") return stream(res, mock, mock.view(query), Number(query.get("seq")));
    if (path === "/live/requests")
      return json(res, { requests: mock.requests(mock.view(query), Date.now() - 3_600_000, Date.now()).requests });
    if (path.startsWith("/loadgen/api/v1/")) return load.serve(req, res, path.slice("/loadgen/api/v1".length));
    return json(res, { error: "no such page" }, 404);
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const port = Number(process.argv[2] ?? 9466);
  if (process.argv[3]) useCatalogue(JSON.parse(readFileSync(process.argv[3], "utf8")));
  server().listen(port, "127.0.0.1", () => console.log(`http://localhost:${port}/`));
}
