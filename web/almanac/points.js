// The measured points as the store has them, and series: the repeats of one measurement together.
import { areDisjoint, meanWithInterval } from "./statistics.js";

// A client that sends later than this at its 99th percentile has measured itself.
const MAX_CLIENT_LAG_MS = 1;

const LATENCIES = ["ttft", "itl", "tpot", "e2e"];
const RATES = ["requests_s", "output_tok_s", "total_tok_s"];
const PERCENTILES = ["p50", "p99"];
// Equal in two series that measured the same thing at different times.
const SAME_MEASUREMENT = ["engine", "engine_version", "engine_config", "git_commit", "model",
  "weights", "dummy_weights", "kv", "gpu", "cpu", "num_devices", "tokens_in", "tokens_out",
  "prefix_share", "arrival", "request_rate", "concurrency"];
// Equal along one line of the chart, where only the load changes.
const SAME_VARIANT = ["campaign", ...SAME_MEASUREMENT.slice(0, -3)];

// Rows of points.js as objects; texts stand in a list of their own.
export function readPoints(data) {
  return data.rows.map((row) => {
    const point = {};
    data.columns.forEach(([name, type], idx) => {
      const cell = row[idx];
      point[name] = cell === null || type === "number" ? cell : data.texts[cell];
    });
    return point;
  });
}

function keyOf(point, columns) {
  return JSON.stringify(columns.map((column) => point[column]));
}

export function isLagging(point) {
  return point.client_lag_ms_p99 !== null && point.client_lag_ms_p99 > MAX_CLIENT_LAG_MS;
}

// Figures come from the repeats whose client kept up; where none did, from all, and isValid says so.
function makeSeries(points) {
  const first = points[0];
  const valid = points.filter((point) => !isLagging(point));
  const used = valid.length > 0 ? valid : points;
  const figures = {};
  const latencies = LATENCIES.flatMap((latency) =>
    PERCENTILES.map((percentile) => `${latency}_ms_${percentile}`));
  for (const name of [...RATES, ...latencies]) {
    figures[name] = meanWithInterval(used.map((point) => point[name] ?? NaN));
  }
  for (const percentile of PERCENTILES) {
    // Tokens a second that one reader sees after the first token.
    figures[`decode_tok_s_${percentile}`] = meanWithInterval(used.map(
      (point) => (point[`tpot_ms_${percentile}`] > 0 ? 1000 / point[`tpot_ms_${percentile}`] : NaN)));
  }
  return {
    id: first.series_id,
    first,
    points,
    numInvalid: points.length - valid.length,
    isValid: valid.length > 0,
    numErrors: points.reduce((sum, point) => sum + (point.errors ?? 0), 0),
    figures,
    variant: keyOf(first, SAME_VARIANT),
    measurement: keyOf(first, SAME_MEASUREMENT),
    device: first.gpu || first.cpu || "CPU of unknown name",
    shape: shapeKey(first),
    disagrees: false,
  };
}

// Another campaign measured the same and the intervals of some rate share no value.
function markDisagreement(all) {
  for (const same of groupBy(all, (series) => series.measurement).values()) {
    for (const a of same) {
      a.disagrees = same.some((b) => a !== b && a.isValid && b.isValid &&
        RATES.some((rate) => areDisjoint(a.figures[rate], b.figures[rate])));
    }
  }
}

export function readSeries(points) {
  const series = [...groupBy(points, (point) => point.series_id).values()].map(makeSeries);
  markDisagreement(series);
  return series;
}

export function groupBy(items, key) {
  const groups = new Map();
  for (const item of items) {
    const name = key(item);
    if (groups.has(name)) groups.get(name).push(item);
    else groups.set(name, [item]);
  }
  return groups;
}

function shapeKey(point) {
  const prefix = point.prefix_share > 0 ? `/${point.prefix_share}` : "";
  return `${point.tokens_in}/${point.tokens_out}${prefix}`;
}

// The price of a million output tokens at `price` an hour for each device; null: not known.
export function costPerMillion(series, price) {
  const tokens = series.figures.output_tok_s?.mean;
  if (!(price > 0) || !(tokens > 0)) return null;
  return (price * series.first.num_devices * 1e6) / (tokens * 3600);
}
