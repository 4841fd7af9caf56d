// The controls: what is shown, and within which latency.
import { h, button, formatCount } from "../shared/dom.js";
import { RATE_NAMES, LATENCY_NAMES, shapeLabel } from "./labels.js";
import { parseShape } from "./choice.js";

const LIMITS = [["", "any"], ["300", "under 300 ms"], ["1000", "under 1 s"]];

function field(label, control, props = {}) {
  return h("label", { class: "field", ...props }, h("span", { class: "label" }, label), control);
}

function select(id, options, value, onchange) {
  const element = h("select", { id, onchange: () => onchange(element.value) },
    options.map(([each, text]) => h("option", { value: each }, text)));
  element.value = value;
  return element;
}

export class Filters {
  constructor(root, state) {
    this.root = root;
    this.state = state;
    this.isCustom = false; // the latency objective is being typed
  }

  // Rebuilt as a whole; the control that was in use keeps the focus.
  show(choice) {
    const focused = document.activeElement?.id;
    const { values } = this.state;
    this.root.replaceChildren(
      h("div", { class: "filter-row" },
        field("Model", select("f-model", choice.models.map((name) => [name, name]), choice.model,
          (model) => this.state.set({ model, shape: "", want: "", weights: [], gpu: [], engine: [],
            campaign: "" }, { step: true })), { class: "field wide" }),
        field("Tokens in / out", select("f-shape",
          choice.shapes.map((shape) => [shape, shapeLabel(shape)]), choice.shape,
          (shape) => this.state.set({ shape, want: "" }, { step: true }))),
        this.workload(values.want),
        this.limit(values),
        field("Percentile", select("f-percentile", [["p50", "p50, the median"], ["p99", "p99"]],
          values.percentile, (percentile) => this.state.set({ percentile })))),
      h("div", { class: "filter-row" },
        this.boxes("engine", "Engine", choice), this.boxes("gpu", "Device", choice),
        this.boxes("weights", "Precision", choice),
        choice.options.campaign.length > 1 || values.campaign ? field("Campaign",
          select("f-campaign", [["", "all"], ...choice.options.campaign.map(([name]) => [name, name])],
            values.campaign, (campaign) => this.state.set({ campaign }))) : null,
        this.prices(choice),
        button("Reset", () => this.reset(), { class: "quiet", id: "f-reset" })));
    if (focused) document.getElementById(focused)?.focus();
  }

  // Prices stay: they are no filter.
  reset() {
    this.isCustom = false;
    this.state.set({ weights: [], gpu: [], engine: [], campaign: "", limit: "", percentile: "p50",
      want: "", invalid: "" });
  }

  workload(want) {
    const input = h("input", { id: "f-want", type: "text", inputmode: "text", size: "9",
      placeholder: "300/700", value: want, autocomplete: "off",
      onchange: () => {
        const bad = input.value.trim() !== "" && !parseShape(input.value);
        input.setCustomValidity(bad ? "Two numbers, tokens in and out: 300/700" : "");
        if (bad) input.reportValidity();
        else this.state.set({ want: input.value.replaceAll(" ", ""), shape: "" });
      } });
    return field("Or my workload", input);
  }

  limit({ limit }) {
    const isCustom = this.isCustom || (limit !== "" && !LIMITS.some(([value]) => value === limit));
    const options = [...LIMITS, ["custom", "custom…"]];
    const input = h("input", { id: "f-limit-ms", type: "number", min: "1", step: "any",
      value: limit, "aria-label": "First token within, ms", class: "number",
      onchange: () => this.state.set({ limit: input.value }) });
    const chosen = select("f-limit", options, isCustom ? "custom" : limit, (value) => {
      this.isCustom = value === "custom";
      this.state.set({ limit: this.isCustom ? limit || "500" : value });
    });
    return field("First token", h("span", { class: "row" }, chosen,
      isCustom ? [input, "ms"] : null));
  }

  // None ticked is the same as all.
  boxes(name, label, choice) {
    const chosen = this.state.values[name];
    const options = choice.options[name];
    return h("fieldset", { class: "boxes" }, h("legend", { class: "label" }, label),
      options.map(([value, count], idx) => {
        const box = h("input", { type: "checkbox", id: `f-${name}-${idx}`,
          checked: chosen.includes(value),
          onchange: () => this.state.set({ [name]: box.checked ? [...chosen, value]
            : chosen.filter((each) => each !== value) }) });
        return h("label", { class: "check" }, box,
          h("span", {}, value), h("span", { class: "muted num" }, formatCount(count)));
      }));
  }

  prices(choice) {
    const prices = this.state.prices();
    return h("fieldset", { class: "boxes" },
      h("legend", { class: "label" }, "Price of one device, per hour"),
      choice.options.gpu.map(([device], idx) => {
        const input = h("input", { type: "number", min: "0", step: "any", class: "number",
          id: `f-price-${idx}`, value: prices.get(device) ?? "", placeholder: "price",
          onchange: () => this.state.setPrice(device, input.value) });
        return h("label", { class: "check" }, input, h("span", {}, device));
      }));
  }
}

// The two axes of the chart, above it.
export function axisControls(state) {
  const { rate, latency, invalid } = state.values;
  const box = h("input", { type: "checkbox", id: "f-invalid", checked: invalid !== "",
    onchange: () => state.set({ invalid: box.checked ? "1" : "" }) });
  return h("div", { class: "row axes" },
    select("f-rate", Object.entries(RATE_NAMES), rate, (value) => state.set({ rate: value })),
    h("span", { class: "muted" }, "against"),
    select("f-latency", Object.entries(LATENCY_NAMES), latency,
      (value) => state.set({ latency: value })),
    h("label", { class: "check" }, box, "show invalid points"));
}
