// What limits the figures of some series, as sentences made from the data.
import { formatCount } from "../shared/dom.js";
import { deviceLabel } from "./labels.js";

const count = (series, test) => series.filter(test).length;
const distinct = (series, of) => new Set(series.map(of)).size;

function share(number, series) {
  return `${formatCount(number)} of ${formatCount(series.length)} measurements`;
}

const RULES = [
  (all) => [count(all, (s) => s.first.dummy_weights),
    (n) => `${share(n, all)} used dummy (random) weights: they tell speed on real shapes, not that answers are right.`],
  (all) => [count(all, (s) => s.points.length === 1),
    (n) => `${share(n, all)} were run once: they have no confidence interval, and differences between them may be chance.`],
  (all) => [count(all, (s) => s.first.arrival === "offline"),
    (n) => `${share(n, all)} were taken inside the engine, without HTTP and without latencies: not comparable with those over HTTP.`],
  (all) => [count(all, (s) => !s.isValid),
    (n) => `${share(n, all)} are invalid, since the client lagged by more than 1 ms at p99; they take part in no answer and no best figure.`],
  (all) => [count(all, (s) => s.first.arrival !== "offline" && s.points.every((p) => p.client_lag_ms_p99 === null)),
    (n) => `${share(n, all)} do not say how far the client lagged, so the client may have been the limit.`],
  (all) => [count(all, (s) => s.disagrees),
    (n) => `${share(n, all)} are disputed: campaigns that measured the same have 95 % intervals that do not overlap.`],
  (all) => [count(all, (s) => s.numErrors > 0),
    (n) => `${share(n, all)} had requests that failed.`],
  (all) => [distinct(all, deviceLabel) - 1,
    (n) => `The figures come from ${n + 1} kinds of machines; compare within one only.`],
  (all) => [distinct(all, (s) => `${s.first.driver}|${s.first.cuda}`) - 1,
    (n) => `${n + 1} combinations of driver and CUDA were in use.`],
  (all) => [distinct(all.filter((s) => s.first.git_commit), (s) => s.first.git_commit) - 1,
    (n) => `The figures come from ${n + 1} commits; the newest is not always the one that is shown.`],
];

export function caveats(series) {
  return RULES.map((rule) => rule(series)).filter(([number]) => number > 0)
    .map(([number, sentence]) => sentence(number));
}
