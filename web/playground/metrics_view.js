// The instruments: this answer's speed, large; the server's total, apart and named so.
import { h, setText, formatRate, formatMs, formatCount, formatPercent, formatDuration }
  from "../shared/dom.js";
import { Sparkline } from "../shared/chart.js";
import { everyFrame } from "./frames.js";

const SHOWN_GAPS = 120;
const NUMBER_MS = 100; // digits that change faster cannot be read

function figure(label, title) {
  const value = h("dd", { class: "num" }, "–");
  return { value, element: h("div", { class: "figure", title }, h("dt", {}, label), value) };
}

export class MetricsView {
  constructor(element, strip) {
    this.meter = null;
    this.roofRate = NaN; // tok/s that memory allows, known once an answer has told
    this.rate = h("span", { class: "num huge" }, "–");
    this.rateNote = h("span", { class: "muted" }, "tok/s");
    this.state = h("span", { class: "state muted" }, "");
    this.roofBar = h("div", { class: "fill" });
    this.roof = h("span", { class: "num" }, "–");
    this.roofNote = h("span", { class: "muted" }, "");
    this.gapP50 = h("span", { class: "num" }, "–");
    this.figures = {
      ttft: figure("First token", "Time to first token"),
      gapP99: figure("Gap p99", "99 of 100 tokens came at most this long after the one before"),
      tokens: figure("Answer", "Tokens of this answer"),
      time: figure("Time", "From sending the request to the last token"),
      prompt: figure("Prompt", "Tokens of the prompt, and how many of them the cache held"),
    };
    const canvas = h("canvas", { class: "spark", role: "img", "aria-label": "Time between tokens" });
    element.append(
      h("div", { class: "label-row" }, h("h2", { class: "label" }, "This answer"), this.state),
      h("div", { class: "headline" }, this.rate, this.rateNote),
      h("div", { class: "roof", title: "Decode speed as a share of what this machine's memory bandwidth allows" },
        h("div", { class: "bar" }, this.roofBar),
        h("div", { class: "label-row" },
          h("span", {}, this.roof, " of the memory roof"), this.roofNote)),
      h("div", { class: "label-row spark-head" },
        h("h3", { class: "label" }, "Between tokens"),
        h("span", { class: "muted" }, "p50 ", this.gapP50)),
      canvas,
      h("dl", { class: "figures own" }, Object.values(this.figures).map((each) => each.element)),
      this.serverPart());
    this.gaps = new Sparkline(canvas, { capacity: SHOWN_GAPS, bars: true });
    this.stripParts = this.stripPart(strip);
  }

  serverPart() {
    this.server = {
      rate: figure("All requests", "Tokens per second of the whole server, over the last seconds"),
      running: figure("Running", "Requests being answered now"),
      waiting: figure("Waiting", "Requests in the queue"),
      gear: figure("Gear", "Latency: one kernel computes a lone request. Throughput: steps of all requests"),
    };
    return h("div", { class: "server-part" },
      h("h2", { class: "label" }, "Whole server"),
      h("dl", { class: "figures" }, Object.values(this.server).map((each) => each.element)));
  }

  stripPart(strip) {
    const parts = {
      rate: h("b", { class: "num" }, "–"),
      ttft: h("b", { class: "num" }, "–"),
      roof: h("b", { class: "num" }, "–"),
    };
    strip.append(h("span", {}, parts.rate, " tok/s"), h("span", {}, "first token ", parts.ttft),
      h("span", {}, parts.roof, " of roof"));
    return parts;
  }

  // Follows an answer until it ends.
  follow(meter) {
    this.meter = meter;
    this.shownGaps = -1;
    this.nextNumbers = 0;
    this.stopFrames?.();
    this.stopFrames = everyFrame((now) => {
      this.drawGaps();
      if (now >= this.nextNumbers) {
        this.nextNumbers = now + NUMBER_MS;
        this.drawNumbers(now);
      }
      if (!meter.running) this.settle();
    });
  }

  settle() {
    this.stopFrames?.();
    this.stopFrames = null;
    const { timings } = this.meter;
    if (timings?.roof_fraction > 0) {
      this.roofRate = timings.predicted_per_second / timings.roof_fraction;
    }
    this.shownGaps = -1;
    this.drawGaps();
    this.drawNumbers(performance.now());
  }

  drawGaps() {
    const { gaps } = this.meter;
    if (gaps.length === this.shownGaps) return;
    this.shownGaps = gaps.length;
    this.gaps.set(gaps.slice(-SHOWN_GAPS));
    this.gaps.draw();
  }

  drawNumbers(now) {
    const { meter } = this;
    const live = meter.running;
    const rate = live ? meter.rate(now) : meter.timings?.predicted_per_second ?? meter.meanRate;
    const fraction = live ? rate / this.roofRate : meter.timings?.roof_fraction ?? NaN;
    setText(this.rate, formatRate(rate));
    setText(this.rateNote, live ? "tok/s, last 250 ms" : "tok/s, whole answer");
    const waiting = live && Number.isNaN(meter.firstAt);
    setText(this.state, waiting ? "reading the prompt" : live ? "live" : "");
    this.state.classList.toggle("is-live", live);
    setText(this.roof, formatPercent(fraction));
    setText(this.roofNote, Number.isFinite(this.roofRate) ? `${formatRate(this.roofRate)} tok/s` : "");
    this.roofBar.style.transform = `scaleX(${Math.min(1, Number.isFinite(fraction) ? fraction : 0)})`;
    setText(this.gapP50, formatMs(meter.percentile(0.5)));
    setText(this.figures.gapP99.value, formatMs(meter.percentile(0.99)));
    setText(this.figures.ttft.value, formatMs(waiting ? now - meter.startedAt : meter.ttftMs));
    setText(this.figures.tokens.value, `${formatCount(meter.tokens)} tok`);
    setText(this.figures.time.value, formatDuration(((live ? now : meter.endedAt) - meter.startedAt) / 1000));
    const cached = meter.usage?.prompt_tokens_details?.cached_tokens ?? 0;
    setText(this.figures.prompt.value, meter.usage
      ? `${formatCount(meter.usage.prompt_tokens)} tok${cached ? `, ${formatCount(cached)} cached` : ""}` : "–");
    setText(this.stripParts.rate, formatRate(rate));
    setText(this.stripParts.ttft, formatMs(meter.ttftMs));
    setText(this.stripParts.roof, formatPercent(fraction));
  }

  showServer({ rate, running, waiting, roofRate, latencyGear }) {
    if (roofRate > 0) this.roofRate = roofRate;
    setText(this.server.rate.value, Number.isFinite(rate) ? `${formatRate(rate)} tok/s` : "–");
    setText(this.server.running.value, formatCount(running));
    setText(this.server.waiting.value, formatCount(waiting));
    setText(this.server.gear.value, latencyGear > 0 ? "latency" : running > 0 ? "throughput" : "idle");
  }
}
