// Throughput against latency: one line for each variant of an engine, one point for each load. Where
// no latency is known, the throughput alone as bars. What the chart shows is in the table below it
// too, which is its text for those who do not see it.
import { h, formatMs, formatRate } from "../shared/dom.js";
import { groupBy } from "./points.js";
import {
  LATENCY_NAMES, RATE_NAMES, deviceLabel, engineLabel, loadLabel, precisionLabel, tickMs, tickNumber,
} from "./labels.js";

const LIGHT = ["#0c7f70", "#c2571a", "#4059ad", "#9c2f6f", "#7a6a00", "#2b7fb8", "#6b4fa0", "#5c5c5c"];
const DARK = ["#4cc7b0", "#f0985a", "#90a6f5", "#e58abf", "#cdbb4a", "#7cc3f0", "#b9a0ee", "#b5b5b5"];
const SHAPES = ["circle", "rect", "triangle", "rectRot", "star", "crossRot", "cross", "rectRounded"];
// A latency axis that spans more than this is logarithmic.
const LOG_SPAN = 15;
const MOST_IN_LEGEND = 24;
const MOST_BARS = 20;

const dark = matchMedia("(prefers-color-scheme: dark)");
const printed = matchMedia("print");

// 95 % confidence intervals of the throughput, as whiskers.
const whiskers = {
  id: "whiskers",
  afterDatasetsDraw({ ctx, data, scales }) {
    ctx.save();
    data.datasets.forEach((dataset) => {
      ctx.strokeStyle = dataset.borderColor;
      ctx.lineWidth = 1;
      for (const { x, interval } of dataset.data) {
        if (!interval || interval.low === null) continue;
        const at = scales.x.getPixelForValue(x);
        const [low, high] = [interval.low, interval.high].map((y) => scales.y.getPixelForValue(y));
        ctx.beginPath();
        ctx.moveTo(at, low);
        ctx.lineTo(at, high);
        for (const end of [low, high]) {
          ctx.moveTo(at - 3, end);
          ctx.lineTo(at + 3, end);
        }
        ctx.stroke();
      }
    });
    ctx.restore();
  },
};

// The latency that was asked for, as a line that points must stay left of.
const limitLine = {
  id: "limitLine",
  beforeDatasetsDraw({ ctx, chartArea, scales, options }) {
    const { at, color } = options.plugins.limitLine;
    if (!(at > scales.x.min && at < scales.x.max)) return;
    const x = scales.x.getPixelForValue(at);
    ctx.save();
    ctx.strokeStyle = color;
    ctx.setLineDash([5, 4]);
    ctx.beginPath();
    ctx.moveTo(x, chartArea.top);
    ctx.lineTo(x, chartArea.bottom);
    ctx.stroke();
    ctx.restore();
  },
};

// What of a variant's name tells it from the others shown.
function variantNames(variants) {
  const parts = variants.map(([first]) => [first.first.engine, first.first.engine_version,
    first.first.engine_config, precisionLabel(first.first), deviceLabel(first),
    first.first.dummy_weights ? "dummy weights" : "",
    first.first.git_commit.slice(0, 10), first.first.campaign]);
  const differs = parts[0].map((_, idx) => idx === 0 || new Set(parts.map((each) => each[idx])).size > 1);
  return parts.map((each) => each.filter((part, idx) => differs[idx] && part).join(" · "));
}

// The mark of a line as the chart draws it: shapes tell lines apart where colours do not.
function swatch({ pointStyle, borderColor }) {
  const size = 14;
  const canvas = h("canvas", { class: "swatch", "aria-hidden": "true" });
  const scale = devicePixelRatio || 1;
  canvas.width = size * scale;
  canvas.height = size * scale;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.fillStyle = borderColor;
  context.strokeStyle = borderColor;
  globalThis.Chart.helpers.drawPoint(context, { pointStyle, radius: 4, borderWidth: 1.5 }, size / 2, size / 2);
  return canvas;
}

export class ChartView {
  constructor(root, { onPick }) {
    this.onPick = onPick;
    this.canvas = h("canvas", { role: "img" });
    this.box = h("div", { class: "chart-box" }, this.canvas);
    this.legend = h("ul", { class: "legend", "aria-label": "Lines of the chart" });
    this.note = h("p", { class: "muted small" });
    root.append(this.box, this.legend, this.note);
    dark.addEventListener("change", () => this.redraw());
    printed.addEventListener("change", () => this.redraw());
  }

  isNarrow() {
    return this.box.clientWidth < 500;
  }

  redraw() {
    if (this.last) this.show(...this.last);
  }

  show(shown, state) {
    this.last = [shown, state];
    const column = `${state.latency}_ms_${state.percentile}`;
    const placed = shown.filter((series) => series.figures[column] && series.figures[state.rate]);
    const groups = [...groupBy(placed, (series) => series.variant).values()];
    const names = groups.length > 0 ? variantNames(groups) : [];
    const colors = dark.matches && !printed.matches ? DARK : LIGHT;
    const datasets = groups.map((group, idx) => this.dataset(group, {
      label: names[idx], color: colors[idx % colors.length], column, state,
      // The ninth line has the first one's colour, so it takes another shape.
      style: SHAPES[(idx + Math.floor(idx / colors.length)) % SHAPES.length] }));
    this.chart?.destroy();
    this.chart = null;
    this.box.hidden = shown.length === 0;
    this.describe(shown.length - placed.length, datasets, state);
    if (placed.length > 0) this.draw(datasets, state);
    else if (shown.length > 0) this.drawBars(shown, state);
    else this.note.textContent = "No point is left to draw.";
  }

  dataset(group, { label, color, style, column, state }) {
    const data = group.map((series) => ({
      x: series.figures[column].mean,
      y: series.figures[state.rate].mean,
      interval: series.figures[state.rate],
      series,
    })).sort((a, b) => a.y - b.y);
    const isChosen = ({ series }) => series.id === state.point;
    return {
      label, data, showLine: true, borderColor: color, borderWidth: 1.5, tension: 0,
      pointStyle: style, pointBorderColor: color, pointBorderWidth: 1.5, pointHitRadius: 8,
      // Invalid points are hollow.
      pointBackgroundColor: data.map(({ series }) => (series.isValid ? color : "transparent")),
      pointRadius: data.map((point) => (isChosen(point) ? 7 : 4)),
      pointHoverRadius: 6,
    };
  }

  describe(numMissing, datasets, state) {
    const latency = LATENCY_NAMES[state.latency].toLowerCase();
    this.note.textContent = [
      "Up and to the left is better. Whiskers: 95 % confidence interval over repeats.",
      numMissing > 0 ? `In the table only, for want of a ${latency}: ${numMissing}.` : "",
    ].join(" ");
    this.canvas.setAttribute("aria-label", `${RATE_NAMES[state.rate]} against ${latency} `
      + `(${state.percentile}), ${datasets.length} lines. The table below has every point.`);
    const listed = datasets.slice(0, MOST_IN_LEGEND);
    this.legend.replaceChildren(...listed.map((dataset) =>
      h("li", {}, swatch(dataset), dataset.label)));
    if (datasets.length > listed.length) {
      this.legend.append(h("li", { class: "muted" }, `and ${datasets.length - listed.length} more`));
    }
  }

  // The best of each variant, most first.
  drawBars(shown, state) {
    const value = (series) => series.figures[state.rate]?.mean ?? 0;
    const groups = [...groupBy(shown, (series) => series.variant).values()]
      .map((group) => group.sort((a, b) => value(b) - value(a)))
      .sort((a, b) => value(b[0]) - value(a[0])).slice(0, MOST_BARS);
    const best = groups.map(([series]) => series);
    const names = variantNames(groups).map((name, idx) => `${name}, ${loadLabel(best[idx].first)}`);
    // Beside the bars there is no room for names on a phone: they stand below, by number.
    const isNarrow = this.isNarrow();
    if (isNarrow) {
      this.legend.replaceChildren(...names.map((name, idx) => h("li", {}, h("b", {}, String(idx + 1)), name)));
    }
    const latency = LATENCY_NAMES[state.latency].toLowerCase();
    this.note.textContent = `No point here has a ${latency}, so this is throughput alone: the best of each variant.`;
    this.canvas.setAttribute("aria-label", `${RATE_NAMES[state.rate]}, the best of ${best.length} variants. `
      + "The table below has every point.");
    const { axis, color } = this.look();
    this.chart = new globalThis.Chart(this.canvas, {
      type: "bar",
      data: { labels: isNarrow ? names.map((_, idx) => idx + 1) : names,
        datasets: [{ data: best.map(value), maxBarThickness: 18,
          backgroundColor: best.map((series) => (series.isValid ? color("--accent") : "transparent")),
          borderColor: color("--accent"), borderWidth: 1 }] },
      options: {
        ...this.common((hit) => best[hit.index].id),
        indexAxis: "y",
        scales: {
          x: axis(RATE_NAMES[state.rate], tickNumber, { beginAtZero: true }),
          y: { ticks: { color: color("--ink") }, grid: { display: false } },
        },
        plugins: { legend: { display: false }, tooltip: { displayColors: false } },
      },
    });
  }

  // The page's colours, and an axis in them.
  look() {
    const style = getComputedStyle(this.canvas);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = (text, format, more) => ({
      title: { display: true, text, color: color("--ink") },
      ticks: { color: color("--muted"), callback: format, maxTicksLimit: 8, maxRotation: 0 },
      grid: { color: color("--hairline"), borderColor: color("--strong-line") },
      ...more,
    });
    return { axis, color };
  }

  // Options of both charts; `idOf` says which series was hit.
  common(idOf) {
    return {
      animation: false,
      maintainAspectRatio: false,
      interaction: { mode: "nearest", intersect: true },
      // Later, since picking makes a new chart and this one is still at work on the click.
      onClick: (_, [hit]) => hit && setTimeout(() => this.onPick(idOf(hit))),
      onHover: (event, hits) => { event.native.target.style.cursor = hits.length ? "pointer" : ""; },
    };
  }

  draw(datasets, state) {
    const { axis, color } = this.look();
    const latencies = datasets.flatMap((dataset) => dataset.data.map(({ x }) => x));
    const least = latencies.reduce((low, x) => Math.min(low, x), Infinity);
    const most = latencies.reduce((high, x) => Math.max(high, x), 0);
    const isLog = least > 0 && most / least > LOG_SPAN;
    // Few enough numbers that none touches the next.
    const labelled = this.isNarrow() ? [1, 3] : [1, 2, 5];
    const latencyTick = (ms) =>
      (isLog && !labelled.includes(Math.round(ms / 10 ** Math.floor(Math.log10(ms) + 1e-9))) ? null : tickMs(ms));
    this.chart = new globalThis.Chart(this.canvas, {
      type: "scatter",
      data: { datasets },
      plugins: [whiskers, limitLine],
      options: {
        ...this.common((hit) => datasets[hit.datasetIndex].data[hit.index].series.id),
        scales: {
          x: axis(`${LATENCY_NAMES[state.latency]}, ${state.percentile}`, latencyTick,
            { type: isLog ? "logarithmic" : "linear", beginAtZero: !isLog }),
          y: axis(RATE_NAMES[state.rate], tickNumber, { beginAtZero: true }),
        },
        plugins: {
          legend: { display: false },
          limitLine: { at: state.latency === "ttft" ? Number(state.limit) : NaN, color: color("--danger") },
          tooltip: {
            displayColors: false,
            callbacks: {
              title: ([item]) => engineLabel(item.raw.series.first),
              label: ({ raw }) => [`${deviceLabel(raw.series)}, ${precisionLabel(raw.series.first)}`,
                loadLabel(raw.series.first),
                `${formatRate(raw.y)} ${RATE_NAMES[state.rate].toLowerCase()} at ${formatMs(raw.x)}`],
            },
          },
        },
      },
    });
  }
}
