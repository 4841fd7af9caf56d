// Every series the filters leave, as a table that sorts by its headings.
import { h, button, formatCount, formatRate } from "../shared/dom.js";
import { costPerMillion } from "./points.js";
import {
  cautions, deviceLabel, engineLabel, latencyText, loadLabel, moneyText, precisionLabel, withInterval,
} from "./labels.js";

// More rows only when asked for: thousands make every change of a filter slow.
const ROWS_AT_ONCE = 100;

function columns(state, prices, origin) {
  const { percentile } = state;
  const figure = (name) => (series) => series.figures[name]?.mean ?? null;
  const all = [
    { id: "engine", title: "Engine", value: (s) => engineLabel(s.first), text: (s) => engineLabel(s.first), below: origin },
    { id: "device", title: "Device and precision", value: (s) => `${deviceLabel(s)} ${precisionLabel(s.first)}`,
      text: deviceLabel, below: (s) => precisionLabel(s.first) },
    { id: "load", title: "Load", value: (s) => s.first.request_rate || s.first.concurrency, text: (s) => loadLabel(s.first) },
    { id: "runs", title: "Runs", number: true, value: (s) => s.points.length, text: (s) => formatCount(s.points.length) },
    { id: "ttft", title: `First token ${percentile}`, number: true, group: "latency",
      value: figure(`ttft_ms_${percentile}`), text: (s) => latencyText(s.figures[`ttft_ms_${percentile}`]) },
    { id: "decode", title: `Decode tok/s per request ${percentile}`, number: true, group: "decode",
      value: figure(`decode_tok_s_${percentile}`), text: (s) => formatRate(s.figures[`decode_tok_s_${percentile}`]?.mean ?? NaN) },
    { id: "requests_s", title: "Requests/s", number: true, group: "rate", value: figure("requests_s"), text: (s) => withInterval(s.figures.requests_s) },
    { id: "output_tok_s", title: "Output tok/s", number: true, value: figure("output_tok_s"), text: (s) => withInterval(s.figures.output_tok_s) },
    { id: "total_tok_s", title: "In + out tok/s", number: true, value: figure("total_tok_s"), text: (s) => formatRate(s.figures.total_tok_s?.mean ?? NaN) },
  ];
  if (prices.size > 0) {
    const cost = (s) => costPerMillion(s, prices.get(s.device));
    all.push({ id: "cost", title: "Cost per 1M output", number: true, group: "cost", value: cost, text: (s) => moneyText(cost(s)) });
  }
  return all;
}

// What is unknown comes last in both directions.
function sorted(rows, column, isDescending) {
  return [...rows].sort((a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    const order = x < y ? -1 : x > y ? 1 : 0;
    return isDescending ? -order : order;
  });
}

// Where a series comes from, as far as that differs within the table.
function originIn(shown) {
  const parts = [(s) => s.first.git_commit.slice(0, 10), (s) => s.first.campaign]
    .filter((of) => new Set(shown.map(of)).size > 1);
  return (series) => parts.map((of) => of(series)).filter(Boolean).join(" · ");
}

export class TableView {
  constructor(root, state, { onPick }) {
    this.root = root;
    this.state = state;
    this.onPick = onPick;
    this.numRows = ROWS_AT_ONCE;
  }

  show(choice) {
    const { values } = this.state;
    const all = columns(values, this.state.prices(), originIn(choice.shown));
    const isDescending = values.sort.startsWith("-");
    const column = all.find(({ id }) => id === values.sort.replace("-", ""))
      ?? all.find(({ id }) => id === values.rate);
    const rows = sorted(choice.met, column, values.sort ? isDescending : true);
    const shown = rows.slice(0, this.numRows);
    const heading = (each) => h("th", { scope: "col", class: this.cellClass(each),
      "aria-sort": each === column ? (isDescending || !values.sort ? "descending" : "ascending") : null },
    button(each.title, () => this.sortBy(each, column, isDescending || !values.sort),
      { class: "quiet", id: `sort-${each.id}` }));
    const focused = document.activeElement?.id;
    const left = this.root.querySelector(".scroll")?.scrollLeft ?? 0;
    this.root.replaceChildren(
      h("p", { class: "muted small" }, this.summary(choice)),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Measured points" },
        h("table", { class: "points" },
          h("caption", { class: "off-screen" }, "Measured points, one line for the repeats of a measurement"),
          h("thead", {}, h("tr", {}, all.map(heading), h("th", { scope: "col" }, "Notes"))),
          h("tbody", {}, shown.map((series) => this.row(series, all))))));
    this.root.querySelector(".scroll").scrollLeft = left;
    if (rows.length > shown.length) {
      this.root.append(button(`Show ${formatCount(Math.min(ROWS_AT_ONCE, rows.length - shown.length))} more of ${formatCount(rows.length)}`,
        () => { this.numRows += ROWS_AT_ONCE; this.show(choice); }, { id: "more-rows" }));
    }
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }

  summary({ shown, met, numInvalid }) {
    const { limit, percentile, invalid } = this.state.values;
    const parts = [`${formatCount(met.length)} measurements`];
    if (limit) {
      parts.push(`${formatCount(shown.length - met.length)} more do not show a first token within ${formatCount(Number(limit))} ms at ${percentile}`);
    }
    if (numInvalid > 0) {
      parts.push(`${formatCount(numInvalid)} invalid (client lag above 1 ms at p99) ${invalid ? "included" : "left out"}`);
    }
    return `${parts.join("; ")}.`;
  }

  cellClass({ number, group }) {
    return [number ? "num" : "", group ? "group-start" : ""].join(" ").trim() || null;
  }

  // A second, quiet line of a cell.
  below(series, { below }) {
    const text = below?.(series);
    return text ? h("span", { class: "below muted" }, text) : null;
  }

  sortBy(column, current, isDescending) {
    const descending = column === current ? !isDescending : Boolean(column.number);
    this.state.set({ sort: `${descending ? "-" : ""}${column.id}` });
  }

  row(series, all) {
    const [name, ...rest] = all;
    const isChosen = series.id === this.state.values.point;
    return h("tr", { class: [series.isValid ? "" : "is-invalid", isChosen ? "is-chosen" : ""].join(" ").trim() || null },
      h("th", { scope: "row" }, button(name.text(series), () => this.onPick(series.id),
        { class: "link", id: `row-${series.id}`, title: "Commands and raw rows" }),
        this.below(series, name)),
      rest.map((column) => h("td", { class: this.cellClass(column) }, column.text(series), this.below(series, column))),
      h("td", { class: "notes" }, cautions(series).map(([mark, why]) =>
        h("span", { class: mark === "invalid" || mark === "disputed" ? "mark bad" : "mark", title: why }, mark))));
  }
}
