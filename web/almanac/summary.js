// The executive summary: one page made from the data, to be read or printed.
import { h, button, formatCount, formatMs, formatRate } from "../shared/dom.js";
import { groupBy } from "./points.js";
import { caveats } from "./caveats.js";
import { deviceLabel, loadLabel, precisionLabel, shapeLabel, versionLabel } from "./labels.js";

// What one printed page holds: settings and engines, a line each.
const MOST_ROWS = 22;

// Engines are compared where all but the engine is the same.
function settingOf(series) {
  const { first } = series;
  return JSON.stringify([first.model, precisionLabel(first), first.dummy_weights, deviceLabel(series),
    series.shape, first.arrival === "offline"]);
}

function best(group, name, isLess = false) {
  return group.filter((series) => series.figures[name]).reduce((top, series) => {
    if (!top) return series;
    const [a, b] = [series.figures[name].mean, top.figures[name].mean];
    return (isLess ? a < b : a > b) ? series : top;
  }, null);
}

function cell(series, name, format, onPick) {
  if (!series) return h("td", { class: "num" }, "–");
  return h("td", { class: "num" },
    button(format(series.figures[name].mean), () => onPick(series.id), { class: "link", title: "Commands and raw rows" }),
    h("span", { class: "at muted" }, loadLabel(series.first)));
}

function engineRow(group, onPick) {
  return h("tr", {},
    h("th", { scope: "row" }, versionLabel(group[0].first)),
    cell(best(group, "output_tok_s"), "output_tok_s", formatRate, onPick),
    cell(best(group, "ttft_ms_p50", true), "ttft_ms_p50", formatMs, onPick),
    cell(best(group, "decode_tok_s_p50"), "decode_tok_s_p50", formatRate, onPick));
}

function settingRows(group, onPick) {
  const [series] = group;
  const { first } = series;
  const title = [first.model, precisionLabel(first) + (first.dummy_weights ? ", dummy weights" : ""),
    deviceLabel(series), shapeLabel(series.shape)].join(" · ");
  const engines = [...groupBy(group, (each) => versionLabel(each.first)).values()];
  return [h("tr", { class: "setting" }, h("th", { scope: "rowgroup", colspan: "4" }, title)),
    ...engines.map((each) => engineRow(each, onPick))];
}

// Settings that compare engines come first, then those measured most.
function orderedSettings(series) {
  const engines = (group) => new Set(group.map((each) => each.first.engine)).size;
  return [...groupBy(series, settingOf).values()]
    .sort((a, b) => engines(b) - engines(a) || b.length - a.length);
}

function headline(points, series) {
  const dates = points.map((point) => point.started_at?.slice(0, 10)).filter(Boolean).sort();
  const span = dates.length === 0 ? "" : dates[0] === dates.at(-1) ? `, measured on ${dates[0]}`
    : `, measured from ${dates[0]} to ${dates.at(-1)}`;
  const names = (of) => [...new Set(series.map(of))].sort();
  const list = (of) => {
    const all = names(of);
    return all.length > 6 ? `${all.slice(0, 6).join(", ")} and ${all.length - 6} more` : all.join(", ");
  };
  return h("dl", { class: "facts" },
    h("dt", {}, "Data"), h("dd", {}, `${formatCount(points.length)} runs, ${formatCount(series.length)} measurements${span}`),
    h("dt", {}, "Engines"), h("dd", {}, list((each) => versionLabel(each.first))),
    h("dt", {}, "Models"), h("dd", {}, list((each) => each.first.model)),
    h("dt", {}, "Machines"), h("dd", {}, list(deviceLabel)));
}

export function showSummary(root, points, all, onPick) {
  const valid = all.filter((series) => series.isValid);
  const rows = [];
  let numSettings = 0;
  const settings = orderedSettings(valid);
  for (const group of settings) {
    const next = settingRows(group, onPick);
    if (rows.length > 0 && rows.length + next.length > MOST_ROWS) break;
    rows.push(...next);
    numSettings += 1;
  }
  const left = settings.length - numSettings;
  root.replaceChildren(
    h("div", { class: "label-row" }, h("h1", {}, "How fast are inference engines: summary"),
      button("Print", () => window.print(), { class: "no-print" })),
    headline(points, all),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Best figures" },
      h("table", { class: "points summary-table" },
        h("caption", {}, "Best measured figure of each quantity by itself, over configurations and loads, with its load. No row holds all three at once."),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Engine"),
          h("th", { scope: "col", class: "num" }, "Aggregate output tok/s"),
          h("th", { scope: "col", class: "num" }, "First token p50"),
          h("th", { scope: "col", class: "num" }, "Decode tok/s per request p50"))),
        h("tbody", {}, rows))),
    left > 0 ? h("p", { class: "muted small" }, `${formatCount(left)} more settings are in the table of the page.`) : "",
    h("h2", {}, "What to keep in mind"),
    h("ul", { class: "plain" }, caveats(all).map((each) => h("li", {}, each)),
      h("li", {}, "A figure holds for its engine version, machine, shape and load; every one has its commands and raw rows on the page.")));
}
