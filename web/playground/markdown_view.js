// A document that grows: text in, finished blocks out, each put into the page once.
//
// Text is gathered until the worker has answered the piece before, and handed over once a frame, so
// a fast stream means larger pieces and never a queue. Only the open block is ever replaced.
import { h, button, copyButton } from "../shared/dom.js";
import { everyFrame } from "./frames.js";
import { previewKind } from "./preview.js";
import { safeNodes } from "./safe_nodes.js";

const OPEN_BLOCK_MS_PER_KB = 6; // a long open block is drawn less often

let worker = null;
let nextView = 1;
const views = new Map();

function startWorker() {
  worker ??= new Worker(new URL("./markdown_worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => views.get(data.view)?.receive(data.ops);
}

export class MarkdownView {
  // onCode(block, event) hears of code blocks: "begin", "text", "end".
  // onPreview(block) is called when the reader wants to see one run.
  constructor(element, { onCode, onPreview } = {}) {
    startWorker();
    this.element = element;
    this.onCode = onCode ?? (() => {});
    this.onPreview = onPreview;
    this.id = nextView++;
    this.pending = "";
    this.ending = false;
    this.busy = false;
    this.open = null; // element of the block still growing
    this.code = null; // the code block still growing
    this.nextAt = 0;
    views.set(this.id, this);
    this.stopFrames = null;
  }

  append(text) {
    this.pending += text;
    this.wake();
  }

  // No more text; resolves when everything is in the page.
  finish() {
    this.ending = true;
    this.wake();
    return new Promise((resolve) => (this.finished = resolve));
  }

  // Forgets the document without waiting; the element is the caller's again.
  drop() {
    this.stopFrames?.();
    views.delete(this.id);
    worker.postMessage({ view: this.id, drop: true });
  }

  wake() {
    this.stopFrames ??= everyFrame((now) => this.send(now));
  }

  send(now) {
    if (this.busy || (now < this.nextAt && !this.ending)) return;
    this.stopFrames?.();
    this.stopFrames = null;
    this.busy = true;
    worker.postMessage({ view: this.id, text: this.pending, end: this.ending });
    this.pending = "";
    this.sentEnd = this.ending;
  }

  receive(ops) {
    this.busy = false;
    let openLength = 0;
    for (const op of ops) {
      if (op.op === "open") openLength = op.html.length;
      this[`do_${op.op}`](op);
    }
    this.nextAt = performance.now() + (openLength / 1024) * OPEN_BLOCK_MS_PER_KB;
    if (this.sentEnd) {
      views.delete(this.id);
      this.open?.remove();
      this.finished?.();
    } else if (this.pending !== "" || this.ending) {
      this.wake();
    }
  }

  // A block joins the document and takes the open block's nodes where they are the same already.
  do_block({ html }) {
    this.do_open({ html });
    this.open?.replaceWith(...this.open.childNodes);
    this.open = null;
  }

  // Replaces only what differs: a growing list keeps its earlier items.
  do_open({ html }) {
    const fresh = safeNodes(html);
    if (!this.open) {
      this.open = h("div", { class: "open" });
      this.element.append(this.open);
    }
    morph(this.open, fresh);
  }

  do_code({ lang }) {
    this.open?.remove();
    this.open = null;
    const code = h("code", {});
    const tail = document.createTextNode("");
    code.append(tail);
    const block = { lang, text: "", done: false, element: null, view: this };
    const head = h("div", { class: "code-head" }, h("span", {}, lang || "text"));
    block.element = h("figure", { class: "code-block" }, head, h("pre", { tabindex: "0" }, code));
    if (this.onPreview) {
      block.previewButton = button("Preview", () => this.onPreview(block), {
        class: "quiet", hidden: previewKind(block) === null,
      });
      head.append(block.previewButton);
    }
    head.append(copyButton(() => block.text, { class: "quiet" }));
    this.code = { block, code, tail };
    this.element.append(block.element);
    this.onCode(block, "begin");
  }

  do_lines({ html, text }) {
    const { block, tail } = this.code;
    tail.data = "";
    tail.before(safeNodes(html));
    block.text += text;
    if (block.previewButton?.hidden) block.previewButton.hidden = previewKind(block) === null;
    this.onCode(block, "text");
  }

  do_tail({ text }) {
    if (this.code.tail.data !== text) this.code.tail.data = text;
  }

  do_end() {
    const { block } = this.code;
    block.done = true;
    this.code.tail.data = "";
    this.code = null;
    this.onCode(block, "end");
  }
}

// Makes the children of `target` equal to those of `fresh`, keeping equal ones in place; an element
// of the same kind is entered, text is set.
function morph(target, fresh) {
  const wanted = [...fresh.childNodes];
  wanted.forEach((node, idx) => {
    const have = target.childNodes[idx];
    if (!have) {
      target.append(node);
    } else if (idx < wanted.length - 1 && have.isEqualNode(node)) {
      return;
    } else if (have.nodeType === Node.TEXT_NODE && node.nodeType === Node.TEXT_NODE) {
      if (node.data.startsWith(have.data)) have.appendData(node.data.slice(have.length));
      else have.data = node.data;
    } else if (have.nodeType === Node.ELEMENT_NODE && have.cloneNode().isEqualNode(node.cloneNode())) {
      morph(have, node);
    } else {
      have.replaceWith(node);
    }
  });
  while (target.childNodes.length > wanted.length) target.lastChild.remove();
}
