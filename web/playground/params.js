// Controls for the request's parameters, made from the server's own table (/openapi.json): a new
// parameter of the server appears here by itself. Only what the reader sets is sent.
import { h, button } from "../shared/dom.js";
import { getJson } from "./api.js";

// What the page decides itself, and what would change the shape of the answer it reads.
const NOT_OFFERED = new Set([
  "model", "messages", "stream", "stream_options", "stream_interval", "timings", "n", "best_of",
  "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "response_format",
  "echo", "suffix", "prompt", "logprobs", "top_logprobs", "prompt_logprobs", "return_token_ids",
  "return_prompt_text", "add_generation_prompt", "continue_final_message", "chat_template",
  "chat_template_kwargs", "request_id", "user", "max_tokens", "metadata", "store",
]);
const HIDDEN_GROUP = "unsupported";
const GROUPS = [
  ["Sampling", ["temperature", "top_p", "top_k", "min_p", "seed", "max_completion_tokens"]],
  ["Penalties", ["repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias"]],
  ["Stopping", ["stop", "stop_token_ids", "min_tokens", "ignore_eos", "include_stop_str_in_output"]],
];
// A slider needs two ends; where the table leaves one open, this is as far as it goes.
const SLIDER_ENDS = { temperature: [0, 2], repetition_penalty: [0.5, 2], top_k: [0, 200] };
// Where a slider rests while the model's own default holds, which the table does not name.
const NEUTRAL = { temperature: 1, top_p: 1, repetition_penalty: 1 };
const SEPARATE_LINES = "One a line.";

function resolve(document, schema) {
  let at = schema;
  for (let depth = 0; at?.$ref && depth < 8; depth++) {
    at = at.$ref.replace(/^#\//, "").split("/")
      .reduce((node, part) => node?.[part.replaceAll("~1", "/").replaceAll("~0", "~")], document);
  }
  return at ?? {};
}

// One parameter of the table: {name, type, min, max, fallback, doc}.
function describe(document, name, raw) {
  const outer = resolve(document, raw);
  const choices = (outer.anyOf ?? outer.oneOf ?? [outer]).map((each) => resolve(document, each));
  const types = choices.flatMap((each) => each.type ?? []).filter((type) => type !== "null");
  const preferred = ["array", "object", "boolean", "integer", "number", "string"];
  const type = preferred.find((each) => types.includes(each)) ?? "string";
  const chosen = choices.find((each) => [each.type].flat().includes(type)) ?? outer;
  return {
    name, type,
    min: chosen.minimum ?? chosen.exclusiveMinimum ?? outer.minimum,
    max: chosen.maximum ?? chosen.exclusiveMaximum ?? outer.maximum,
    options: chosen.enum?.filter((each) => each !== null),
    itemType: resolve(document, chosen.items ?? {}).type ?? "string",
    fallback: outer.default ?? chosen.default,
    doc: outer.description ?? chosen.description ?? "",
  };
}

export async function loadParameters() {
  const document = await getJson("/openapi.json");
  const post = document.paths?.["/v1/chat/completions"]?.post;
  const schema = resolve(document, post?.requestBody?.content?.["application/json"]?.schema);
  return Object.entries(schema.properties ?? {})
    .filter(([name, raw]) => !NOT_OFFERED.has(name) && raw["x-group"] !== HIDDEN_GROUP)
    .map(([name, raw]) => describe(document, name, raw));
}

export class ParamsPanel {
  // `values` is changed in place; `onChange` hears of it.
  constructor(element, parameters, { idPrefix = "p", onChange = () => {} } = {}) {
    this.element = element;
    this.parameters = parameters;
    this.idPrefix = idPrefix;
    this.onChange = onChange;
    this.bind({});
  }

  bind(values) {
    this.values = values;
    const named = new Set(GROUPS.flatMap(([, names]) => names));
    const groups = [...GROUPS,
      ["More", this.parameters.map(({ name }) => name).filter((name) => !named.has(name))]];
    this.element.replaceChildren(...groups.map(([title, names], idx) => {
      const rows = names.map((name) => this.parameters.find((each) => each.name === name))
        .filter(Boolean).map((parameter) => this.row(parameter));
      if (rows.length === 0) return null;
      const isSet = names.some((name) => values[name] !== undefined);
      return h("details", { class: "param-group", open: idx === 0 || isSet },
        h("summary", {}, title), rows);
    }).filter(Boolean));
  }

  set(name, value, row) {
    if (value === undefined) delete this.values[name];
    else this.values[name] = value;
    row.classList.toggle("is-set", value !== undefined);
    this.onChange(this.values);
  }

  row(parameter) {
    const { name, doc, fallback } = parameter;
    const id = `${this.idPrefix}-${name}`;
    const row = h("div", { class: "param", title: doc });
    const change = (value) => this.set(name, value, row);
    const control = this.control(parameter, id, change);
    const reset = button("×", () => {
      change(undefined);
      row.replaceWith(this.row(parameter));
    }, { class: "reset", "aria-label": `Reset ${name}`, title: "Back to the default" });
    // A long name breaks after an underscore.
    const words = name.split("_").flatMap((word, idx) => (idx ? ["_", h("wbr"), word] : [word]));
    row.append(h("label", { for: id }, words), reset, ...control);
    if (parameter.type === "array" || parameter.type === "object") row.classList.add("wide");
    if (typeof fallback === "object" && fallback !== null) row.classList.add("wide");
    row.classList.toggle("is-set", this.values[name] !== undefined);
    return row;
  }

  control(parameter, id, change) {
    if (parameter.options) return [this.select(parameter, id, change)];
    switch (parameter.type) {
      case "boolean": return [this.checkbox(parameter, id, change)];
      case "integer":
      case "number": return this.number(parameter, id, change);
      case "array": return [this.list(parameter, id, change)];
      case "object": return [this.json(parameter, id, change)];
      default: return [this.text(parameter, id, change)];
    }
  }

  select({ name, options, fallback }, id, change) {
    const select = h("select", { id, onchange: () => change(select.value || undefined) },
      h("option", { value: "" }, fallback === undefined ? "default" : String(fallback)),
      options.map((each) => h("option", { value: each }, String(each))));
    select.value = this.values[name] ?? "";
    return select;
  }

  checkbox({ name, fallback }, id, change) {
    const box = h("input", { type: "checkbox", id });
    box.checked = this.values[name] ?? fallback ?? false;
    box.addEventListener("change", () => change(box.checked));
    return box;
  }

  number({ name, type, min, max, fallback }, id, change) {
    const value = this.values[name];
    const input = h("input", {
      type: "number", id, inputmode: "decimal", min, max, value: value ?? "",
      step: type === "integer" ? 1 : "any",
      placeholder: fallback === undefined || fallback === null ? "auto" : String(fallback),
    });
    const [low, high] = SLIDER_ENDS[name] ?? [min, max];
    const hasSlider = Number.isFinite(low) && Number.isFinite(high) && high - low <= 1000;
    const slider = hasSlider && h("input", {
      type: "range", min: low, max: high, "aria-label": `${name} slider`, tabindex: "-1",
      step: type === "integer" ? 1 : 0.01,
    });
    if (slider) slider.value = value ?? fallback ?? NEUTRAL[name] ?? Math.max(low, 0);
    input.addEventListener("input", () => {
      if (input.value === "" || !input.checkValidity()) {
        if (input.value === "") change(undefined);
        return;
      }
      change(Number(input.value));
      if (slider) slider.value = input.value;
    });
    if (!slider) return [input];
    slider.addEventListener("input", () => {
      input.value = slider.value;
      change(Number(slider.value));
    });
    return [input, slider];
  }

  text({ name, fallback }, id, change) {
    const input = h("input", {
      type: "text", id, value: this.values[name] ?? "", placeholder: fallback ?? "",
      oninput: () => change(input.value || undefined),
    });
    return input;
  }

  list({ name, itemType }, id, change) {
    const isNumber = itemType === "integer" || itemType === "number";
    const area = h("textarea", {
      id, rows: 2, placeholder: SEPARATE_LINES, value: (this.values[name] ?? []).join("\n"),
      oninput: () => {
        const lines = area.value.split("\n").filter((line) => line !== "");
        const items = isNumber ? lines.map(Number).filter(Number.isFinite) : lines;
        change(items.length > 0 ? items : undefined);
      },
    });
    return area;
  }

  json({ name }, id, change) {
    const value = this.values[name];
    const area = h("textarea", {
      id, rows: 2, placeholder: "{ }", spellcheck: "false",
      value: value === undefined ? "" : JSON.stringify(value),
      oninput: () => {
        area.setCustomValidity("");
        if (area.value.trim() === "") return change(undefined);
        try {
          change(JSON.parse(area.value));
        } catch {
          area.setCustomValidity("This is not JSON.");
        }
      },
    });
    return area;
  }
}
