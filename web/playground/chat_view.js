// The thread of one conversation: draws messages, makes answers, edits and branches.
import { h, button, copyButton, formatRate, formatMs, formatCount } from "../shared/dom.js";
import { Generation, requestBody } from "./generation.js";
import { MarkdownView } from "./markdown_view.js";
import { showSnippets } from "./snippets.js";
import { activePath, addMessage, branchOf, leafId, promptMessages, switchBranch } from "./store.js";
import { previewKind } from "./preview.js";

const STICK_PX = 60; // this near the end counts as reading the end
const LET_GO_MS = 300;
const UP_KEYS = new Set(["ArrowUp", "PageUp", "Home"]);
const FINISH_TEXT = {
  length: "cut at the token limit", stopped: "stopped", error: "failed", deadline: "out of time",
};

export class ChatView {
  // deps: {getModel, save(conversation), metrics, preview, onBusy(busy), onAnswer(node, body)}
  constructor(thread, deps) {
    this.thread = thread;
    this.deps = deps;
    this.conversation = null;
    this.generation = null;
    this.shown = new Map(); // node id -> {element, markdown}
    this.stick = true;
    this.watchScrolling();
    // A line that wraps or a block that grows keeps the end in view.
    this.column = h("div", { class: "column" });
    thread.append(this.column);
    new ResizeObserver(() => this.follow()).observe(this.column);
  }

  get busy() {
    return this.generation !== null;
  }

  open(conversation) {
    this.stop();
    for (const { markdown } of this.shown.values()) markdown?.drop();
    this.shown.clear();
    this.column.replaceChildren();
    this.conversation = conversation;
    this.stick = true;
    this.draw();
  }

  // Only the reader's own hand lets go of the end: text that grows, or a box that changes its height,
  // moves the position too.
  watchScrolling() {
    const { thread } = this;
    let letGoAt = 0;
    const letGo = () => {
      this.stick = false;
      letGoAt = performance.now();
    };
    thread.addEventListener("wheel", (event) => event.deltaY < 0 && letGo(), { passive: true });
    thread.addEventListener("touchmove", letGo, { passive: true });
    thread.addEventListener("pointerdown", (event) => event.target === thread && letGo());
    thread.addEventListener("keydown", (event) => UP_KEYS.has(event.key) && letGo());
    let lastTop = 0;
    thread.addEventListener("scroll", () => {
      const left = thread.scrollHeight - thread.scrollTop - thread.clientHeight;
      // The event of a position that the page set may come after the hand has moved.
      const settled = performance.now() - letGoAt > LET_GO_MS;
      if (settled && left < STICK_PX && thread.scrollTop >= lastTop) this.stick = true;
      lastTop = thread.scrollTop;
    }, { passive: true });
  }

  follow() {
    if (this.stick) this.thread.scrollTop = this.thread.scrollHeight;
  }

  // Brings the elements in line with the messages shown; those that stay are not touched.
  draw() {
    const path = activePath(this.conversation);
    const wanted = new Set(path.map((node) => node.id));
    for (const [id, { element, markdown }] of this.shown) {
      if (wanted.has(id)) continue;
      markdown?.drop();
      element.remove();
      this.shown.delete(id);
    }
    this.welcome?.remove();
    if (path.length === 0) {
      this.welcome = this.makeWelcome();
      this.column.append(this.welcome);
    }
    for (const node of path) {
      if (!this.shown.has(node.id)) {
        const made = this.makeMessage(node);
        this.shown.set(node.id, made);
        this.column.append(made.element);
      }
      this.drawFoot(node);
    }
  }

  makeWelcome() {
    const ideas = [
      "Explain how a jet engine works, briefly.",
      "Write a Python function that merges two sorted lists.",
      "Draw a sunset over hills as an SVG.",
      "Write an HTML page with a bouncing ball on a canvas.",
    ];
    return h("div", { class: "welcome" },
      h("h1", {}, "Ask, and watch the speed."),
      h("p", { class: "muted" }, "Everything here runs on this server. Conversations stay in this browser."),
      h("ul", {}, ideas.map((idea) => h("li", {}, button(idea, () => this.send(idea))))));
  }

  makeMessage(node) {
    const body = h("div", { class: "body" });
    const foot = h("div", { class: "foot" });
    const element = h("article", {
      class: `message ${node.role}`, "aria-label": node.role === "user" ? "You" : "Answer",
      dataset: { node: node.id },
    }, body, foot);
    const made = { element, body, foot, markdown: null };
    if (node.role === "user") body.textContent = node.content;
    else this.fillAnswer(made, node);
    return made;
  }

  fillAnswer(made, node) {
    made.markdown = new MarkdownView(made.body, {
      onPreview: (block) => this.deps.preview.show(block),
      onCode: (block, event) => this.heardCode(made, block, event),
    });
    if (node.content) made.markdown.append(node.content);
    if (!node.pending) made.markdown.finish().then(() => this.follow());
  }

  // While an answer is made, a page it writes opens by itself where there is room beside it.
  heardCode(made, block, event) {
    const { preview } = this.deps;
    const live = made === this.live;
    const wantsOpen = live && event !== "end" && !made.previewed && previewKind(block) !== null;
    if (wantsOpen && previewKind(block) !== "js" && matchMedia("(min-width: 1200px)").matches) {
      made.previewed = true;
      preview.show(block);
    }
    preview.update(block);
  }

  drawFoot(node) {
    const { foot } = this.shown.get(node.id);
    const { idx, count } = branchOf(this.conversation, node.id);
    const step = (by) => {
      if (this.busy) return;
      switchBranch(this.conversation, node.id, by);
      this.changed();
    };
    const branches = count > 1 && h("span", { class: "branches" },
      button("‹", () => step(-1), { class: "quiet", disabled: idx === 0, "aria-label": "Earlier branch" }),
      h("span", { class: "num" }, `${idx + 1}/${count}`),
      button("›", () => step(1), { class: "quiet", disabled: idx + 1 === count, "aria-label": "Later branch" }));
    const actions = node.pending ? [] : [
      copyButton(() => node.content, { class: "quiet" }),
      button("Edit", () => this.edit(node), { class: "quiet" }),
      node.role === "assistant" && button("Regenerate", () => this.regenerate(node), { class: "quiet" }),
      node.role === "assistant" && button("Code", () => showSnippets(this.body(node.parent)), {
        class: "quiet", title: "View as code",
      }),
    ];
    foot.replaceChildren(...[branches, this.makeFacts(node), ...actions].filter(Boolean));
  }

  makeFacts(node) {
    if (node.role !== "assistant" || node.pending) return null;
    const facts = h("span", { class: "facts num muted" });
    const { speed } = node;
    const parts = [];
    if (speed?.tokens) {
      parts.push(`${formatRate(speed.rate ?? NaN)} tok/s`, `first token ${formatMs(speed.ttftMs ?? NaN)}`,
        `${formatCount(speed.tokens)} tok`);
    }
    if (FINISH_TEXT[node.finish]) parts.push(FINISH_TEXT[node.finish]);
    facts.textContent = parts.join(" · ");
    if (!node.error) return facts;
    return h("span", { class: "facts" }, h("span", { class: "error", role: "alert" }, node.error), " ", facts);
  }

  changed() {
    this.draw();
    this.deps.save(this.conversation);
  }

  // The request that the answer below `nodeId` is made from.
  body(nodeId) {
    return requestBody({
      model: this.deps.getModel(),
      messages: promptMessages(this.conversation, nodeId),
      params: this.conversation.params,
    });
  }

  send(text) {
    if (this.busy) return;
    this.stick = true;
    const node = addMessage(this.conversation, leafId(this.conversation), { role: "user", content: text });
    this.answer(node.id);
  }

  regenerate(node) {
    if (this.busy) return;
    this.stick = true;
    this.answer(node.parent);
  }

  async answer(parentId) {
    const body = this.body(parentId);
    const node = addMessage(this.conversation, parentId, { role: "assistant", content: "", pending: true });
    const conversation = this.conversation;
    this.changed();
    const made = this.shown.get(node.id);
    made.element.classList.add("is-live");
    made.element.setAttribute("aria-busy", "true");
    this.live = made;
    const generation = new Generation(body, { onText: (text) => made.markdown.append(text) });
    this.generation = generation;
    this.deps.onBusy(true);
    const running = generation.run();
    this.deps.metrics.follow(generation.meter);
    await running;
    Object.assign(node, {
      content: generation.text, cuts: generation.cuts, finish: generation.error ? "error" : generation.finish,
      error: generation.error?.message ?? null, speed: generation.meter.summary(), model: body.model,
    });
    delete node.pending;
    this.generation = null;
    made.element.classList.remove("is-live");
    made.element.removeAttribute("aria-busy");
    this.deps.onBusy(false);
    this.deps.save(conversation);
    if (this.conversation === conversation && this.shown.get(node.id) === made) {
      this.drawFoot(node);
      await made.markdown.finish();
      this.follow();
    }
    if (this.live === made) this.live = null;
    this.deps.onAnswer(node, body);
  }

  stop() {
    this.generation?.stop();
  }

  // A changed question is asked anew, a changed answer stands as a branch of its own.
  edit(node) {
    if (this.busy) return;
    const { body, foot } = this.shown.get(node.id);
    const area = h("textarea", { class: "edit", "aria-label": "Edit message", value: node.content });
    const hidden = [...body.childNodes];
    const cancel = () => {
      body.replaceChildren(...hidden);
      foot.hidden = false;
    };
    const save = () => {
      const content = area.value.trim();
      cancel();
      if (!content || content === node.content || this.busy) return;
      const fresh = addMessage(this.conversation, node.parent, { role: node.role, content });
      if (node.role === "user") this.answer(fresh.id);
      else this.changed();
    };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        cancel();
      }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing && node.role === "user") {
        event.preventDefault();
        save();
      }
    });
    body.replaceChildren(area, h("div", { class: "row end" },
      button("Cancel", cancel, { class: "quiet" }),
      button(node.role === "user" ? "Send" : "Save", save, { class: "primary" })));
    foot.hidden = true;
    area.style.height = `${Math.min(area.scrollHeight + 4, 480)}px`;
    area.focus();
  }
}
