// "Which is best for my workload": the leader of each quantity by itself, since one that leads in
// throughput may trail in latency. Only valid points that meet the objective take part.
import { h, formatCount, formatMs, formatRate } from "../shared/dom.js";
import { areDisjoint } from "./statistics.js";
import { costPerMillion } from "./points.js";
import { deviceLabel, engineLabel, loadLabel, moneyText, precisionLabel, shapeLabel } from "./labels.js";

function contest(series, name, { isLess = false, format }) {
  return {
    of: (each) => each.figures[name],
    value: (each) => each.figures[name]?.mean ?? null,
    isLess,
    format,
    candidates: series.filter((each) => each.figures[name]),
  };
}

// What a reader chooses between: an engine in a precision on a device, however it was configured
// and loaded.
function contender(series) {
  const { first } = series;
  return JSON.stringify([first.engine, precisionLabel(first), first.dummy_weights, deviceLabel(series)]);
}

// Each contender's best point, best first.
function ranking({ candidates, value, isLess }) {
  const best = new Map();
  for (const series of candidates) {
    const known = best.get(contender(series));
    const isBetter = !known || (isLess ? value(series) < value(known) : value(series) > value(known));
    if (isBetter) best.set(contender(series), series);
  }
  return [...best.values()].sort((a, b) => (isLess ? value(a) - value(b) : value(b) - value(a)));
}

function comparison([first, second], { value, of, isLess, format }) {
  if (!second) return "Nothing else measured to compare it with.";
  const name = [engineLabel(second.first), deviceLabel(second), precisionLabel(second.first),
    second.first.dummy_weights ? "dummy weights" : ""].filter(Boolean).join(", ");
  const ratio = isLess ? value(second) / value(first) : value(first) / value(second);
  const [a, b] = [of(first), of(second)];
  let trust = "";
  if (a && b && (a.low === null || b.low === null)) trust = " Without repeats of both this is no verdict.";
  else if (a && b && !areDisjoint(a, b)) trust = " Their 95 % intervals overlap: call it a tie.";
  return `Next: ${name}, ${format(value(second))}; the lead is ${ratio.toFixed(2)}×.${trust}`;
}

function card(title, race, onPick) {
  const ranked = ranking(race);
  if (ranked.length === 0) return null;
  const [first] = ranked;
  const link = h("button", { type: "button", class: "link", onclick: () => onPick(first.id) }, engineLabel(first.first));
  return h("div", { class: "card" },
    h("span", { class: "label" }, title),
    h("span", { class: "big num" }, race.format(race.value(first))),
    h("p", {}, link, ` on ${deviceLabel(first)}, ${precisionLabel(first.first)}, ${loadLabel(first.first)}`,
      first.first.dummy_weights ? ", dummy weights" : "", "."),
    h("p", { class: "muted small" }, comparison(ranked, race)));
}

function costRace(met, prices) {
  const value = (series) => costPerMillion(series, prices.get(series.device));
  return { value, of: () => null, isLess: true, format: moneyText,
    candidates: met.filter((series) => value(series) !== null) };
}

// The nearest miss, where nothing meets the objective.
function nearest(shown, column) {
  return [...shown].filter((series) => series.figures[column])
    .sort((a, b) => a.figures[column].mean - b.figures[column].mean)[0];
}

function noAnswer(choice, values) {
  const column = `ttft_ms_${values.percentile}`;
  const miss = nearest(choice.shown, column);
  const asked = `shows a first token within ${formatCount(Number(values.limit))} ms at ${values.percentile}`;
  if (!values.limit) return "No valid point is left to answer from.";
  if (!miss) return `No point here says when its first token came, so none is known to meet the objective.`;
  return `No measured point ${asked}. The nearest is ${engineLabel(miss.first)} with `
    + `${formatMs(miss.figures[column].mean)} (${loadLabel(miss.first)}).`;
}

export function showAnswer(root, choice, state, onPick) {
  const { values } = state;
  const valid = choice.met.filter((series) => series.isValid);
  // What HTTP costs is not in figures from inside the engine, so the two are never ranked together.
  const overHttp = valid.filter((series) => series.first.arrival !== "offline");
  const met = overHttp.length > 0 ? overHttp : valid;
  const numInside = valid.length - met.length;
  const { percentile } = values;
  const objective = values.limit
    ? `with the first token within ${formatCount(Number(values.limit))} ms at ${percentile}` : "at any latency";
  const cards = [
    card("Most throughput, all requests", contest(met, "output_tok_s", { format: (v) => `${formatRate(v)} tok/s` }), onPick),
    card(`Shortest time to first token, ${percentile}`, contest(met, `ttft_ms_${percentile}`, { isLess: true, format: formatMs }), onPick),
    card(`Fastest single answer, decode ${percentile}`, contest(met, `decode_tok_s_${percentile}`, { format: (v) => `${formatRate(v)} tok/s` }), onPick),
    card("Cheapest million output tokens", costRace(met, state.prices()), onPick),
  ].filter(Boolean);
  root.replaceChildren(
    h("h2", {}, "Best for this workload"),
    h("p", { class: "muted" }, `${choice.model}, ${shapeLabel(choice.shape)}, ${objective}. Each quantity has its own leader, often at different loads.`,
      numInside > 0 ? ` Measured inside the engine and so not ranked here: ${formatCount(numInside)}.` : ""),
    cards.length > 0 ? h("div", { class: "cards" }, cards) : h("p", { class: "empty" }, noAnswer(choice, values)));
}
