// Reads /metrics: the text format of Prometheus, and what two readings say about the time between.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

// name -> [{labels, value}]. With `wanted`, a set of names, only those: a server may tell thousands.
export function parseMetrics(text, wanted = null) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    if (line === "" || line[0] === "#") continue;
    if (wanted && !wanted.has(/^[\w:]*/.exec(line)[0])) continue;
    const match = SAMPLE.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) labels[name] = value;
    const value = match[3] === "+Inf" ? Infinity : Number(match[3]);
    if (!samples.has(match[1])) samples.set(match[1], []);
    samples.get(match[1]).push({ labels, value });
  }
  return samples;
}

// The sum over all labels; NaN when the server has no such metric.
export function total(samples, name) {
  const found = samples.get(name);
  return found ? found.reduce((sum, each) => sum + each.value, 0) : NaN;
}

// Cumulative counts by upper bound.
function buckets(samples, name) {
  const counts = new Map();
  for (const { labels, value } of samples.get(`${name}_bucket`) ?? []) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return counts;
}

// The quantile of what a histogram counted between two readings; straight lines within buckets.
export function quantileBetween(before, after, name, fraction) {
  const earlier = before ? buckets(before, name) : new Map();
  const steps = [...buckets(after, name)].sort(([a], [b]) => a - b)
    .map(([bound, count]) => [bound, count - (earlier.get(bound) ?? 0)]);
  const all = steps.at(-1)?.[1] ?? 0;
  if (all <= 0) return NaN;
  const wanted = all * fraction;
  let [low, below] = [0, 0];
  for (const [bound, count] of steps) {
    if (count >= wanted) {
      if (bound === Infinity) return low;
      return low + (bound - low) * ((wanted - below) / (count - below || 1));
    }
    [low, below] = [bound, count];
  }
  return NaN;
}
