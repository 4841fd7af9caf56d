// Puts the almanac's page together: points in, filters, chart, table, answer, summary.
import { h, button, formatCount } from "../shared/dom.js";
import { showAnswer } from "./answer.js";
import { ChartView } from "./chart_view.js";
import { choose } from "./choice.js";
import { Filters, axisControls } from "./filters.js";
import { PointPanel } from "./point_panel.js";
import { readPoints, readSeries } from "./points.js";
import { State } from "./state.js";
import { showSummary } from "./summary.js";
import { TableView } from "./table_view.js";

const VIEWS = [["explore", "Compare"], ["summary", "Summary"], ["method", "Method"], ["data", "Data"]];
const byId = (id) => document.getElementById(id);

class AlmanacPage {
  constructor(points) {
    this.points = points;
    this.all = readSeries(points);
    this.byId = new Map(this.all.map((series) => [series.id, series]));
    this.state = new State(() => this.show());
    this.onPick = (point) => this.state.set({ point }, { step: true });
    const { onPick } = this;
    this.filters = new Filters(byId("filters"), this.state);
    this.chart = new ChartView(byId("chart"), { onPick });
    this.table = new TableView(byId("table"), this.state, { onPick });
    this.panel = new PointPanel(byId("point"), {
      onClose: () => {
        const { point } = this.state.values;
        if (point) this.state.set({ point: "" });
        byId(`row-${point}`)?.focus({ preventScroll: true });
      },
    });
    byId("no-points").hidden = points.length > 0;
    byId("explore").hidden = points.length === 0;
    byId("count").textContent = `${formatCount(points.length)} runs`;
    this.makeTabs();
    this.show();
  }

  makeTabs() {
    this.tabs = VIEWS.map(([view, label], idx) => button(label, () => this.state.set({ view }, { step: true }), {
      role: "tab", id: `tab-${view}`, "aria-controls": `view-${view}`,
      onkeydown: (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = VIEWS[(idx + step + VIEWS.length) % VIEWS.length][0];
        this.state.set({ view: next });
        byId(`tab-${next}`).focus();
      },
    }));
    byId("tabs").replaceChildren(...this.tabs);
  }

  show() {
    const { values } = this.state;
    VIEWS.forEach(([view], idx) => {
      const isShown = view === values.view;
      byId(`view-${view}`).hidden = !isShown;
      this.tabs[idx].setAttribute("aria-selected", isShown);
      this.tabs[idx].tabIndex = isShown ? 0 : -1;
    });
    if (this.points.length === 0) return;
    if (values.view === "explore") this.showExplore();
    if (values.view === "summary") showSummary(byId("summary"), this.points, this.all, this.onPick);
    this.panel.show(this.byId.get(values.point), values.percentile);
  }

  showExplore() {
    const choice = choose(this.all, this.state.values);
    byId("notices").replaceChildren(...choice.notices.map((text) => h("p", {}, text)));
    this.filters.show(choice);
    showAnswer(byId("answer"), choice, this.state, this.onPick);
    this.showAxes();
    this.chart.show(choice.shown, this.state.values);
    this.table.show(choice);
  }

  showAxes() {
    const focused = document.activeElement?.id;
    byId("axes").replaceChildren(axisControls(this.state));
    if (focused) byId(focused)?.focus({ preventScroll: true });
  }
}

new AlmanacPage(globalThis.almanacPoints ? readPoints(globalThis.almanacPoints) : []);
document.body.dataset.ready = "true";
