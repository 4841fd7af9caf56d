// Runs the HTML, SVG or JavaScript of a code block, while it is written, in a frame that can reach
// nothing: sandboxed without same-origin, and under the policy preview_frame.html is served with.
// Messages of the frame are not listened to.
import { h, button, setText } from "../shared/dom.js";

const SEND_MS = 80;

// "html", "svg", "js", or null where there is nothing to see.
export function previewKind({ lang, text }) {
  const name = lang.trim().split(/\s/)[0].toLowerCase();
  if (name === "html" || name === "htm") return "html";
  if (name === "svg") return "svg";
  if (name === "js" || name === "javascript" || name === "mjs") return "js";
  if (name !== "" && name !== "xml") return null;
  const start = text.slice(0, 64).trimStart().toLowerCase();
  if (start.startsWith("<svg")) return "svg";
  return start.startsWith("<!doctype html") || start.startsWith("<html") ? "html" : null;
}

export class PreviewPane {
  constructor(element, { onToggle }) {
    this.element = element;
    this.onToggle = onToggle;
    this.block = null;
    this.title = h("span", { class: "label" });
    this.stage = h("div", { class: "preview-stage" });
    element.append(
      h("div", { class: "pane-head" }, this.title,
        button("Run again", () => this.restart(), { class: "quiet" }),
        button("Close", () => this.close(), { class: "quiet" })),
      this.stage);
  }

  get isOpen() {
    return this.block !== null;
  }

  show(block) {
    this.block = block;
    this.element.hidden = false;
    this.onToggle(true);
    this.restart();
  }

  close() {
    this.block = null;
    this.frame?.remove();
    this.frame = null;
    this.element.hidden = true;
    this.onToggle(false);
  }

  restart() {
    const kind = previewKind(this.block) ?? "html";
    setText(this.title, `Preview · ${kind.toUpperCase()}`);
    this.frame?.remove();
    const frame = h("iframe", {
      sandbox: "allow-scripts", title: "Preview of generated code", referrerpolicy: "no-referrer",
      src: new URL("./preview_frame.html", import.meta.url).href,
    });
    this.frame = frame;
    this.ready = false;
    this.sent = 0;
    this.ended = false;
    frame.addEventListener("load", () => {
      if (this.frame !== frame || this.ready) return;
      this.ready = true;
      this.post("begin", kind);
      this.send();
    }, { once: true });
    this.stage.append(frame);
  }

  // The block has grown or is complete.
  update(block) {
    if (block !== this.block || !this.ready || this.timer) return;
    if (block.done) {
      this.send();
    } else {
      this.timer = setTimeout(() => {
        this.timer = null;
        this.send();
      }, SEND_MS);
    }
  }

  send() {
    if (!this.block || !this.ready || this.ended) return;
    const text = this.block.text.slice(this.sent);
    if (text !== "") this.post("text", text);
    this.sent = this.block.text.length;
    if (this.block.done) {
      this.ended = true;
      this.post("end");
    }
  }

  // The frame's origin is opaque, so no target origin could name it.
  post(type, value) {
    this.frame.contentWindow.postMessage({ type, value }, "*");
  }
}
