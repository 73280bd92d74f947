// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// What the collector sends, and what the modules share.

type Theme = "light" | "dark";
type Values = (number | null)[];

interface Source {
  id: string;
  title: string;
  probe: string;
  cure: string;
}
interface Group {
  id: string;
  title: string;
}
interface Query {
  expr: string;
  legend: string;
  style?: string;
}
interface Threshold {
  value: number;
  level: string;
}
interface Panel {
  id: string;
  group: string;
  title: string;
  help: string;
  unit: string;
  draw: string;
  queries: Query[];
  thresholds?: Threshold[] | null;
  interval?: string;
  sources: string[] | null;
  estimate?: boolean;
  sample?: string;
  max?: number | null;
}
interface Tile {
  id: string;
  title: string;
  help: string;
  unit: string;
  expr: string;
  second?: { label: string; unit: string; expr: string } | null;
  panel: string;
  thresholds?: Threshold[] | null;
}
interface Fact {
  id: string;
  title: string;
  expr: string;
  label?: string;
  unit?: string;
}
interface Column {
  id: string;
  title: string;
  unit?: string;
  expr: string;
  label?: string;
  sparkline?: boolean;
}
interface Catalogue {
  version: string;
  loadgen: boolean;
  tick_ms: number;
  sources: Source[] | null;
  groups: Group[] | null;
  panels: Panel[] | null;
  tiles: Tile[] | null;
  facts: Fact[] | null;
  overview: Column[] | null;
}

interface SeriesData {
  key: string;
  name: string;
  query: number;
  labels: Record<string, string> | null;
  values: Values;
  low?: Values | null;
  high?: Values | null;
}
interface Rule {
  name: string;
  kind: string;
  id: string;
  severity: string;
  priority: number;
  instance: string;
  summary: string;
  cure: string;
  runbook: string;
  since: number;
}
interface Annotation {
  id: string;
  time: number;
  end: number | null;
  kind: string;
  text: string;
  run?: string;
}
interface RequestData {
  id: string;
  server: string;
  model: string;
  slot: number | null;
  task: number;
  start: number;
  first: number | null;
  end: number;
  outcome: string;
  error: string;
  prompt: number;
  cached: number;
  generated: number;
  drafted: number | null;
  accepted: number | null;
  ttft: number | null;
  duration: number;
  wait?: number | null;
  trace: string;
  client: boolean;
  joined?: string;
  /** What the proxy saw: its start is the arrival, and the wait a part of its time. */
  proxied?: boolean;
  began?: number | null;
  client_name?: string;
}
interface Running {
  server: string;
  slot: number;
  task: number;
  state: string;
  since: number;
  prompt: number;
  generated: number;
  remaining: number | null;
  context: number | null;
}
type Scalar = number | string | null;
interface ServerRow {
  id: string;
  values: Record<string, Scalar>;
  sparks?: Record<string, Values> | null;
}
interface TileData {
  value: number | null;
  second?: number | null;
  spark?: Values;
}
interface Snapshot {
  partial?: boolean;
  version: string;
  seq: number;
  now: number;
  server: string;
  gpus: string[] | null;
  step: number;
  start: number;
  points: number;
  servers: ServerRow[] | null;
  facts: Record<string, Scalar> | null;
  sources: Record<string, boolean> | null;
  tiles: Record<string, TileData> | null;
  panels: Record<string, { series: SeriesData[] | null }> | null;
  rules: Rule[] | null;
  annotations: Annotation[] | null;
  requests: RequestData[] | null;
  running: Running[] | null;
}
interface FrameSeries {
  key: string;
  value: number | null;
  low?: number | null;
  high?: number | null;
  name?: string;
  query?: number;
  labels?: Record<string, string> | null;
}
interface Frame {
  seq: number;
  now: number;
  bucket: number;
  facts?: Record<string, Scalar> | null;
  tiles?: Record<string, TileData> | null;
  servers?: ServerRow[] | null;
  sources?: Record<string, boolean> | null;
  panels?: Record<string, FrameSeries[] | null> | null;
  rules?: Rule[] | null;
  annotations?: Annotation[] | null;
  requests?: RequestData[] | null;
  running?: Running[] | null;
}

/** What is looked at, as the address of the page says it. */
interface View {
  server: string;
  gpus: string[];
  /** Seconds. */
  window: number;
  /** Milliseconds; null: now. */
  end: number | null;
}

declare var uPlot: typeof import("uplot");
