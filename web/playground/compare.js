// Two settings side by side: one prompt, one seed, and where their answers part.
import { h, button, setText, formatRate, formatMs, formatCount } from "../shared/dom.js";
import { everyFrame } from "./frames.js";
import { Generation, requestBody } from "./generation.js";
import { ParamsPanel } from "./params.js";

const SAME_SPEED = 0.02;

class Side {
  constructor(name, parameters, values) {
    this.name = name;
    this.values = values;
    this.facts = h("p", { class: "num facts" }, "–");
    this.same = document.createTextNode("");
    this.differs = h("mark", {});
    this.text = h("div", { class: "side-text", tabindex: "0", "aria-label": `Answer ${name}` },
      h("span", { class: "same" }, this.same), this.differs);
    const panel = h("div", { class: "controls" });
    new ParamsPanel(panel, parameters.filter((each) => each.name !== "seed"), {
      idPrefix: `side-${name.toLowerCase()}`,
    }).bind(values);
    this.element = h("section", { class: "side", dataset: { side: name } },
      h("h2", {}, name), this.facts,
      h("details", { class: "side-settings", open: matchMedia("(min-width: 900px)").matches },
        h("summary", {}, "Settings"), panel),
      this.text);
  }

  clear() {
    this.same.data = "";
    this.differs.textContent = "";
    this.shown = 0;
    this.generation = null;
  }

  begin(body) {
    this.generation = new Generation(body, { onText: () => {} });
    return this.generation.run();
  }

  get content() {
    return this.generation?.text ?? "";
  }

  // Text is only ever added: up to the parting point to one node, after it to the other.
  draw(now, parting) {
    const { content } = this;
    if (this.shown < content.length) {
      const plain = content.slice(this.shown, Math.max(this.shown, Math.min(content.length, parting)));
      this.same.appendData(plain);
      const rest = content.slice(this.shown + plain.length);
      if (rest) this.differs.append(rest);
      this.shown = content.length;
    }
    const meter = this.generation?.meter;
    if (!meter) return;
    const rate = meter.running ? meter.rate(now) : meter.timings?.predicted_per_second ?? meter.meanRate;
    setText(this.facts, this.generation.error?.message ??
      `${formatRate(rate)} tok/s · first token ${formatMs(meter.ttftMs)} · ${formatCount(meter.tokens)} tok`);
  }

  rate() {
    const { meter } = this.generation;
    return meter.timings?.predicted_per_second ?? meter.meanRate;
  }
}

function commonLength(a, b, from) {
  const end = Math.min(a.length, b.length);
  let at = from;
  while (at < end && a[at] === b[at]) at++;
  return at;
}

export class CompareView {
  constructor(element, parameters, { getModel, getSystem }) {
    this.getModel = getModel;
    this.getSystem = getSystem;
    this.sides = [
      new Side("A", parameters, { temperature: 0 }),
      new Side("B", parameters, { temperature: 0.8 }),
    ];
    this.prompt = h("textarea", { id: "compare-prompt", rows: 2, "aria-label": "Prompt for both",
      placeholder: "One prompt for both" });
    this.seed = h("input", { type: "number", id: "compare-seed", step: 1, min: 0, value: "42" });
    this.together = h("input", { type: "checkbox", id: "compare-together" });
    this.together.checked = true;
    this.verdict = h("p", { class: "verdict num", role: "status" }, "");
    this.toggle = h("button", { class: "primary", id: "compare-run" }, "Run both");
    const form = h("form", { class: "compare-form" }, this.prompt,
      h("div", { class: "row" },
        h("label", { for: "compare-seed" }, "Seed"), this.seed,
        h("label", { class: "check", for: "compare-together", title: "Else B starts when A is done, and neither slows the other" },
          this.together, "at the same time"),
        this.toggle));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.running) this.stop();
      else this.run();
    });
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        if (!this.running) this.run();
      }
    });
    element.append(
      h("div", { class: "page-head" }, h("h1", {}, "Compare"), this.verdict),
      form,
      h("div", { class: "sides" }, this.sides.map((side) => side.element)));
  }

  body(side) {
    const messages = [{ role: "user", content: this.prompt.value.trim() }];
    const system = this.getSystem().trim();
    if (system) messages.unshift({ role: "system", content: system });
    return requestBody({
      model: this.getModel(), messages, params: { ...side.values, seed: Number(this.seed.value) || 0 },
    });
  }

  async run() {
    if (this.prompt.value.trim() === "") return;
    const [a, b] = this.sides;
    a.clear();
    b.clear();
    this.running = true;
    this.stopped = false;
    setText(this.toggle, "Stop");
    setText(this.verdict, "");
    let parting = 0;
    const draw = (now) => {
      parting = commonLength(a.content, b.content, parting);
      // While one is behind, what the other has more of may still turn out the same.
      const settled = parting < Math.min(a.content.length, b.content.length);
      for (const side of this.sides) side.draw(now, settled ? parting : Infinity);
    };
    const stopFrames = everyFrame(draw);
    const first = a.begin(this.body(a));
    if (!this.together.checked) await first;
    if (!this.stopped) await Promise.all([first, b.begin(this.body(b))]);
    stopFrames();
    draw(performance.now());
    this.running = false;
    setText(this.toggle, "Run both");
    if (b.generation && !a.generation.error && !b.generation.error) this.judge(parting);
  }

  judge(parting) {
    const [a, b] = this.sides;
    const same = a.content === b.content;
    this.split(parting);
    const ratio = a.rate() / b.rate();
    let speed = "";
    if (Math.abs(ratio - 1) < SAME_SPEED) speed = "both decoded at one speed";
    else if (ratio > 1) speed = `A decoded ${ratio.toFixed(2)}× as fast as B`;
    else if (ratio < 1) speed = `B decoded ${(1 / ratio).toFixed(2)}× as fast as A`;
    const text = same ? "The answers are equal" : `The answers part after ${formatCount(parting)} characters`;
    setText(this.verdict, [text, speed].filter(Boolean).join(" · "));
  }

  // One side may have run ahead before they parted: put the mark where it belongs, once.
  split(parting) {
    for (const side of this.sides) {
      side.same.data = side.content.slice(0, parting);
      side.differs.textContent = side.content.slice(parting);
    }
  }

  stop() {
    this.stopped = true;
    for (const side of this.sides) side.generation?.stop();
  }
}
