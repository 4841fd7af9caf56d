// Which series the filters leave, and what the filters may be set to.
import { groupBy } from "./points.js";

const byCount = (groups) => [...groups].sort((a, b) => b[1].length - a[1].length);

function shapeOrder(a, b) {
  const [x, y] = [a, b].map((shape) => shape.split("/").map(Number));
  return x[0] - y[0] || x[1] - y[1] || (x[2] ?? 0) - (y[2] ?? 0);
}

// How far a measured shape is from a wanted one, both as [in, out]: ratios count, not differences.
function distance(shape, wanted) {
  return shape.split("/").slice(0, 2)
    .reduce((sum, tokens, idx) => sum + Math.log(Number(tokens) / wanted[idx]) ** 2, 0);
}

// "300/700" as [300, 700]; null: it is no shape.
export function parseShape(text) {
  const match = /^\s*(\d{1,8})\s*\/\s*(\d{1,8})\s*$/.exec(text);
  if (!match) return null;
  const tokens = [Number(match[1]), Number(match[2])];
  return tokens.every((count) => count > 0) ? tokens : null;
}

function nearestShape(shapes, wanted) {
  return [...shapes].sort((a, b) => distance(a, wanted) - distance(b, wanted))[0];
}

const FILTERS = {
  campaign: { of: (series) => series.first.campaign, name: "campaign" },
  weights: { of: (series) => series.first.weights, name: "precision" },
  gpu: { of: (series) => series.device, name: "device" },
  engine: { of: (series) => series.first.engine, name: "engine" },
};

function passes(series, state, name) {
  const wanted = state[name];
  if (wanted.length === 0) return true;
  const value = FILTERS[name].of(series);
  return Array.isArray(wanted) ? wanted.includes(value) : wanted === value;
}

// {model, models, shape, shapes, options, shown, met, numInvalid, notices}: `shown` pass every filter
// but the latency objective, `met` also meet it. `options[name]` are the values of a filter for this
// model and shape with their counts. `notices` say in one line each what was asked for and is not
// there.
export function choose(all, state) {
  const notices = [];
  const models = byCount(groupBy(all, (series) => series.first.model)).map(([name]) => name);
  let { model } = state;
  if (!models.includes(model)) {
    if (model) notices.push(`There are no points of the model “${model}”; showing ${models[0]}.`);
    [model] = models;
  }
  const ofModel = all.filter((series) => series.first.model === model);
  const shapeCounts = groupBy(ofModel, (series) => series.shape);
  const shapes = [...shapeCounts.keys()].sort(shapeOrder);
  const shape = chooseShape(shapeCounts, shapes, state, notices);
  const ofShape = ofModel.filter((series) => series.shape === shape);
  const options = {};
  for (const [name, filter] of Object.entries(FILTERS)) {
    options[name] = [...groupBy(ofShape, filter.of)].map(([value, group]) => [value, group.length])
      .sort((a, b) => (a[0] < b[0] ? -1 : 1));
  }
  const names = Object.keys(FILTERS);
  let shown = ofShape.filter((series) => names.every((name) => passes(series, state, name)));
  if (shown.length === 0) notices.push(contradiction(ofShape, state, names));
  const numInvalid = shown.filter((series) => !series.isValid).length;
  if (!state.invalid) shown = shown.filter((series) => series.isValid);
  const met = shown.filter((series) => meets(series, state));
  return { model, models, shape, shapes, options, shown, met, numInvalid, notices };
}

function chooseShape(counts, shapes, state, notices) {
  const wanted = parseShape(state.want);
  if (wanted) {
    const nearest = nearestShape(shapes, wanted);
    if (distance(nearest, wanted) > 0) {
      notices.push(`${wanted.join(" in / ")} out was not measured; showing the nearest shape.`);
    }
    return nearest;
  }
  if (shapes.includes(state.shape)) return state.shape;
  if (state.shape) notices.push(`The shape “${state.shape}” was not measured with this model.`);
  return byCount(counts)[0][0];
}

// Which filter to let go of, where together they leave nothing.
function contradiction(ofShape, state, names) {
  const set = names.filter((name) => state[name].length > 0);
  const culprit = set.find((name) => ofShape.some((series) =>
    set.every((other) => other === name || passes(series, state, other))));
  const asked = set.map((name) => `${FILTERS[name].name} ${[state[name]].flat().join(" or ")}`);
  return `No point has ${asked.join(" with ")}; ` + (culprit
    ? `without the filter of the ${FILTERS[culprit].name} there are some.`
    : "reset the filters to see all.");
}

export function meets(series, state) {
  if (!state.limit) return true;
  const ttft = series.figures[`ttft_ms_${state.percentile}`];
  return ttft !== null && ttft.mean < Number(state.limit);
}
