// What limits the figures of some series, as sentences made from the data.
import { formatCount } from "../shared/dom.js";
import { deviceLabel } from "./labels.js";

const count = (series, test) => series.filter(test).length;
const distinct = (series, of) => new Set(series.map(of).filter(Boolean)).size;

const RULES = [
  (all) => [count(all, (s) => s.first.dummy_weights),
    "used dummy (random) weights, which tell speed on real shapes, not that answers are right"],
  (all) => [count(all, (s) => s.points.length === 1),
    "run once: no confidence interval, and differences between them may be chance"],
  (all) => [count(all, (s) => s.first.arrival === "offline"),
    "taken inside the engine, without HTTP and without latencies: not comparable with those over HTTP"],
  (all) => [count(all, (s) => !s.isValid),
    "invalid, since the client lagged by more than 1 ms at p99: left out of answers and of this page"],
  (all) => [count(all, (s) => s.first.arrival !== "offline" && s.points.every((p) => p.client_lag_ms_p99 === null)),
    "silent on how far the client lagged, so the client may have been the limit"],
  (all) => [count(all, (s) => s.disagrees),
    "disputed: campaigns that measured the same have 95 % intervals that do not overlap"],
  (all) => [count(all, (s) => s.numErrors > 0), "had requests that failed"],
];

// Kinds of something of which one would be better.
const KINDS = [
  [deviceLabel, "kinds of devices: compare within one only"],
  [(s) => s.first.cpu, "kinds of host CPUs"],
  [(s) => `${s.first.driver ?? ""}|${s.first.cuda ?? ""}`, "combinations of driver and CUDA"],
  [(s) => s.first.git_commit, "commits; the newest is not always the one that is shown"],
];

export function caveats(series) {
  const total = formatCount(series.length);
  const counted = RULES.map((rule) => rule(series)).filter(([number]) => number > 0)
    .map(([number, what]) => `${formatCount(number)} of ${total} measurements: ${what}.`);
  const kinds = KINDS.map(([of, what]) => [distinct(series, of), what])
    .filter(([number]) => number > 1)
    .map(([number, what]) => `Measured on ${number} ${what}.`);
  return [...counted, ...kinds];
}
