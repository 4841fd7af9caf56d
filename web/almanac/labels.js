// How points are called on the page.
import { formatCount, formatMs, formatRate } from "../shared/dom.js";

export const RATE_NAMES = {
  requests_s: "Requests/s",
  output_tok_s: "Output tokens/s",
  total_tok_s: "Input + output tokens/s",
};
export const LATENCY_NAMES = {
  ttft: "Time to first token",
  tpot: "Time per output token",
  itl: "Time between tokens",
  e2e: "End to end",
};

export function shapeLabel(shape) {
  const [tokensIn, tokensOut, prefix] = shape.split("/");
  const shared = prefix ? `, ${formatCount(prefix * 100)} % shared prefix` : "";
  return `${formatCount(Number(tokensIn))} in / ${formatCount(Number(tokensOut))} out${shared}`;
}

export function deviceLabel(series) {
  const { num_devices: count } = series.first;
  return count > 1 ? `${count}× ${series.device}` : series.device;
}

export function precisionLabel(point) {
  const kv = point.kv ? `, ${point.kv} KV` : "";
  return `${point.weights}${kv}`;
}

export function versionLabel(point) {
  return [point.engine, point.engine_version].filter(Boolean).join(" ");
}

export function engineLabel(point) {
  return [versionLabel(point), point.engine_config].filter(Boolean).join(" ");
}

export function loadLabel(point) {
  const atOnce = point.concurrency > 0 ? `, ${formatCount(point.concurrency)} running` : "";
  if (point.arrival === "closed") return `${formatCount(point.concurrency)} at a time`;
  if (point.arrival === "burst") return `all at once${atOnce}`;
  if (point.arrival === "offline") return `inside the engine${atOnce}`;
  const arrival = point.arrival === "poisson" ? "Poisson" : point.arrival;
  return `${tickNumber(point.request_rate)}/s ${arrival}`;
}

// Three significant digits and no zeros after them: "12", "0.25", "1,500".
export function tickNumber(value) {
  return Number(value.toPrecision(3)).toLocaleString("en-US");
}

export function tickMs(ms) {
  return ms < 1000 ? `${tickNumber(ms)} ms` : `${tickNumber(ms / 1000)} s`;
}

// "12.3" or "12.3 ± 1.4 %": half the confidence interval's width as a share of the mean.
export function withInterval(figure) {
  if (!figure) return "–";
  if (figure.low === null || figure.mean === 0) return formatRate(figure.mean);
  const half = (100 * (figure.high - figure.low)) / 2 / figure.mean;
  return `${formatRate(figure.mean)} ± ${half < 10 ? half.toFixed(1) : half.toFixed(0)} %`;
}

export function latencyText(figure) {
  return figure ? formatMs(figure.mean) : "–";
}

export function moneyText(value) {
  if (value === null) return "–";
  return value < 1 ? value.toFixed(3) : value.toFixed(2);
}

// What a reader has to know before believing a row, shortest first: [mark, explanation].
export function cautions(series) {
  const { first, numErrors, numInvalid, points } = series;
  const all = [];
  if (!series.isValid) all.push(["invalid", "its client lagged by more than 1 ms at p99"]);
  else if (numInvalid > 0) {
    all.push([`${numInvalid} of ${points.length} left out`, "their client lagged by more than 1 ms at p99"]);
  }
  if (series.disagrees) {
    all.push(["disputed", "another campaign measured the same and the 95 % intervals do not overlap"]);
  }
  if (numErrors > 0) all.push([`${formatCount(numErrors)} errors`, "requests that failed"]);
  if (first.dummy_weights) all.push(["dummy weights", "random weights: speed only, no answers"]);
  if (first.arrival === "offline") {
    all.push(["in engine", "measured inside the engine, without HTTP; no latency is known"]);
  }
  if (points.length === 1) all.push(["one run", "not repeated: no confidence interval"]);
  return all;
}
