// What speed feels like: one answer, played at 50, 100, 1,000 and 3,000 tokens a second beside the
// model's own stream, and how long an agent's 50,000 tokens take at each.
import { h, button, setText, formatRate, formatCount, formatDuration } from "../shared/dom.js";
import { everyFrame, framesPerSecond } from "./frames.js";
import { Generation, requestBody } from "./generation.js";
import { MarkdownView } from "./markdown_view.js";
import { SAMPLE_PROMPT, SAMPLE_TEXT, samplePieces } from "./sample_text.js";

export const RATES = [50, 100, 1000, 3000];
const WORKFLOW_TOKENS = 50_000;
const LIVE_TOKENS = 512;
const MIN_PIECES = 200; // a shorter answer is said again, as paragraphs of one
const KEPT_ANSWERS = 3; // of a lane that plays its answer again and again

// The pieces the server sent an answer in, one a token; edited answers are cut anew.
function piecesOf(answer) {
  const pieces = cutAnswer(answer);
  const all = [...pieces];
  while (all.length < MIN_PIECES) all.push("\n\n", ...pieces);
  return all;
}

function cutAnswer(answer) {
  if (!answer) return samplePieces(SAMPLE_TEXT);
  const { content, cuts } = answer;
  if (!Array.isArray(cuts) || cuts.reduce((sum, each) => sum + each, 0) !== content.length) return samplePieces(content);
  let at = 0;
  return cuts.map((length) => content.slice(at, (at += length)));
}

class Lane {
  constructor(title) {
    this.title = h("h2", { class: "num" }, title);
    this.note = h("p", { class: "num workflow" }, "–");
    this.progress = h("div", { class: "fill" });
    this.count = h("span", { class: "num muted" }, "0 tok");
    this.flow = h("div", {});
    this.text = h("div", { class: "lane-text", tabindex: "0", "aria-label": `Text at ${title}` }, this.flow);
    this.element = h("section", { class: "lane" },
      h("div", { class: "lane-head" }, this.title, this.count),
      h("p", { class: "label" }, `${formatCount(WORKFLOW_TOKENS)} agent tokens take`),
      this.note,
      h("div", { class: "bar" }, this.progress),
      this.text);
  }

  showTime(tokensPerSecond) {
    setText(this.note, formatDuration(WORKFLOW_TOKENS / tokensPerSecond));
  }

  showCount(tokens) {
    setText(this.count, `${formatCount(tokens)} tok`);
    this.progress.style.transform = `scaleX(${Math.min(1, tokens / WORKFLOW_TOKENS)})`;
  }

  clear() {
    this.view?.drop();
    this.view = null;
    this.flow.replaceChildren();
    this.nextAnswer();
  }

  // The answer before stays above; older ones go.
  nextAnswer() {
    this.view?.finish();
    const body = h("div", { class: "body" });
    this.flow.append(body);
    while (this.flow.children.length > KEPT_ANSWERS) this.flow.firstChild.remove();
    this.view = new MarkdownView(body);
  }

  append(text) {
    this.view.append(text);
  }
}

// Plays the pieces at a fixed rate, again and again, until the workflow is done.
class ReplayLane extends Lane {
  constructor(rate) {
    super(`${formatCount(rate)} tok/s`);
    this.rate = rate;
    this.element.dataset.rate = rate;
    this.showTime(rate);
  }

  begin(pieces, now) {
    this.pieces = pieces;
    this.startedAt = now;
    this.played = 0;
    this.clear();
  }

  // True when the workflow is done.
  frame(now) {
    const due = Math.min(WORKFLOW_TOKENS, Math.floor(((now - this.startedAt) / 1000) * this.rate));
    while (this.played < due) {
      const at = this.played % this.pieces.length;
      if (at === 0 && this.played > 0) this.nextAnswer();
      const until = Math.min(this.pieces.length, at + due - this.played);
      this.append(this.pieces.slice(at, until).join(""));
      this.played += until - at;
    }
    this.showCount(this.played);
    return this.played === WORKFLOW_TOKENS;
  }
}

class LiveLane extends Lane {
  constructor() {
    super("Live");
    this.element.classList.add("is-live");
  }

  begin(body) {
    this.clear();
    this.generation = new Generation(body, { onText: (text) => this.append(text) });
    this.running = true;
    this.generation.run().then(({ error }) => {
      this.running = false;
      if (error) setText(this.title, error.message);
    });
  }

  stop() {
    this.generation?.stop();
  }

  frame(now) {
    const { meter, error } = this.generation;
    const rate = this.running ? meter.rate(now) : meter.timings?.predicted_per_second ?? meter.meanRate;
    if (!error) setText(this.title, `Live · ${formatRate(rate)} tok/s`);
    if (Number.isFinite(rate)) this.showTime(rate);
    this.showCount(meter.tokens);
    return !this.running;
  }
}

export class ReplayView {
  // getAnswer() tells the newest answer {node, body} of the chat, if there is one.
  constructor(element, { getModel, getAnswer }) {
    this.getModel = getModel;
    this.getAnswer = getAnswer;
    this.live = new LiveLane();
    this.lanes = RATES.map((rate) => new ReplayLane(rate));
    this.fps = h("span", { class: "num muted", id: "fps" }, "");
    this.toggle = button("Start", () => (this.stopFrames ? this.stop() : this.start()), {
      class: "primary", id: "replay-toggle",
    });
    this.withLive = h("input", { type: "checkbox", id: "replay-live", checked: true });
    element.append(
      h("div", { class: "page-head" },
        h("h1", {}, "Replay"),
        h("p", { class: "muted" }, "The same answer at four speeds, beside this server's own."),
        h("label", { class: "check", for: "replay-live" }, this.withLive, "Live stream"),
        this.fps, this.toggle),
      h("div", { class: "lanes" }, this.live.element, this.lanes.map((lane) => lane.element)));
  }

  start() {
    const answer = this.getAnswer();
    const now = performance.now();
    const pieces = piecesOf(answer?.node);
    for (const lane of this.lanes) lane.begin(pieces, now);
    const useLive = this.withLive.checked;
    if (useLive) {
      this.live.begin(answer?.body ?? requestBody({
        model: this.getModel(), messages: [{ role: "user", content: SAMPLE_PROMPT }],
        params: { max_completion_tokens: LIVE_TOKENS },
      }));
    }
    setText(this.toggle, "Stop");
    this.stopFrames = everyFrame((at) => {
      const done = this.lanes.map((lane) => lane.frame(at));
      if (useLive) done.push(this.live.frame(at));
      const rate = framesPerSecond();
      setText(this.fps, Number.isFinite(rate) ? `${Math.round(rate)} frames/s` : "");
      if (done.every(Boolean)) this.stop();
    });
  }

  stop() {
    this.live.stop();
    this.stopFrames?.();
    this.stopFrames = null;
    setText(this.toggle, "Start");
  }
}
