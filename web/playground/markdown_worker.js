// Markdown to HTML, off the page's thread, a piece at a time.
//
// In:  {view, text, end}  text to append; `end` closes the document.
// Out: {view, ops}        what to do to the document, in order:
//   block html        a block that is complete; it takes the place of the open one
//   open html         the block still growing
//   code lang         a code block begins (after the open block went)
//   lines html text   whole lines of it, coloured
//   tail text         its line still growing
//   end               the code block is complete
// A finished block is never sent again, and an open code block is coloured line by line, so the
// work for a token does not grow with the answer.
import { Lexer, Parser, Renderer } from "../vendor/marked.js";
import hljs from "../vendor/highlight.js";

hljs.configure({ hideUpgradeWarningAcceptNoSupportOrSecurityUpdates: true });

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^\n`]*)(?:\n|$)/;
const MAX_COLOURED_LINE = 2000;

function escapeHtml(text) {
  return text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
}

function languageOf(info) {
  const name = info.trim().split(/[\s{,:]/)[0].toLowerCase();
  return { svg: "xml", c: "cpp", latex: "tex", jsonc: "json" }[name] ?? name;
}

function colour(code, info) {
  const language = languageOf(info);
  if (!hljs.getLanguage(language)) return escapeHtml(code);
  return hljs.highlight(language, code, true).value;
}

// HTML that the model wrote is shown as text. Links keep to the web; pictures become links, so an
// answer cannot make the browser fetch anything by itself.
const renderer = new Renderer();
renderer.html = (html) => escapeHtml(html);
renderer.code = (code, info) =>
  `<pre class="code"><code>${colour(code, info ?? "")}\n</code></pre>`;
renderer.link = (href, title, text) => {
  if (!/^(https?:|mailto:|#)/i.test(href ?? "")) return text;
  const tip = title ? ` title="${escapeHtml(title)}"` : "";
  return `<a href="${escapeHtml(href)}"${tip}>${text}</a>`;
};
renderer.image = (href, title, text) => renderer.link(href, title, escapeHtml(text || href || ""));
const options = {
  gfm: true, breaks: false, headerIds: false, mangle: false, silent: true, renderer,
};

class Document {
  constructor() {
    this.rest = ""; // text of the open block, or the unfinished line of code
    this.fence = null; // {mark, info, top}
    this.links = {}; // link definitions seen so far
    this.ops = [];
  }

  append(text) {
    this.rest += text;
    for (let again = true; again; ) again = this.fence ? this.code(false) : this.blocks(false);
  }

  end() {
    for (let again = true; again; ) again = this.fence ? this.code(true) : this.blocks(true);
    if (this.fence) this.closeCode();
  }

  takeOps() {
    const ops = this.ops;
    this.ops = [];
    return ops;
  }

  // A line that may become an opening fence waits until it is whole. The lexer knows an open fence
  // only when its last line is complete, so one is completed for it.
  lex(final) {
    const lexer = new Lexer(options);
    lexer.tokens.links = { ...this.links };
    const text = final ? this.rest : this.rest.replace(/(^|\n) {0,3}(`{2,}|~{2,})[^\n`]*$/, "$1");
    const tokens = lexer.lex(text.endsWith("\n") ? text : `${text}\n`);
    this.links = tokens.links;
    return tokens;
  }

  render(tokens) {
    tokens.links = this.links;
    return tokens.map((token) => token.type === "html"
      ? `<p>${escapeHtml(token.raw)}</p>` : Parser.parse([token], options)).join("");
  }

  // Sends the blocks that later text cannot change, keeps the last one open. True when a fence was
  // opened, so that what follows it is code.
  blocks(final) {
    const tokens = this.lex(final);
    let last = tokens.length - 1;
    while (last > 0 && tokens[last].type === "space") last--;
    const fenceIdx = tokens.findIndex((token) =>
      token.type === "code" && FENCE.test(token.raw) && token.raw.includes("\n"));
    const until = fenceIdx >= 0 ? fenceIdx : final ? tokens.length : Math.max(0, last);
    let offset = 0;
    const done = tokens.slice(0, until);
    for (const token of done) {
      offset += token.raw.length;
      if (token.type !== "space") this.ops.push({ op: "block", html: this.render([token]) });
    }
    this.rest = this.rest.slice(offset);
    if (fenceIdx >= 0) {
      const [opening, mark, info] = FENCE.exec(this.rest);
      this.rest = this.rest.slice(opening.length);
      this.fence = { mark, info: info.trim(), top: undefined };
      this.ops.push({ op: "code", lang: this.fence.info });
      return true;
    }
    if (!final) this.ops.push({ op: "open", html: this.render(tokens.slice(until)) });
    return false;
  }

  // Whole lines of the open code block. True when it was closed and text follows.
  code(final) {
    const { mark } = this.fence;
    const closing = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}[ \\t]*$`);
    let lines = "";
    let start = 0;
    for (let end; (end = this.rest.indexOf("\n", start)) >= 0 || (final && start < this.rest.length);
         start = end + 1) {
      if (end < 0) end = this.rest.length;
      const line = this.rest.slice(start, end);
      if (closing.test(line)) {
        this.pushLines(lines);
        this.closeCode();
        this.rest = this.rest.slice(end + 1);
        return true;
      }
      lines += `${line}\n`;
    }
    this.pushLines(lines);
    this.rest = this.rest.slice(start);
    // What may still become the closing fence is held back.
    if (!final) this.ops.push({ op: "tail", text: /^ {0,3}[`~]*$/.test(this.rest) ? "" : this.rest });
    return false;
  }

  pushLines(text) {
    if (text === "") return;
    const language = languageOf(this.fence.info);
    let html = escapeHtml(text);
    if (hljs.getLanguage(language) && text.length / text.split("\n").length < MAX_COLOURED_LINE) {
      const result = hljs.highlight(language, text, true, this.fence.top);
      this.fence.top = result.top;
      html = result.value;
    }
    this.ops.push({ op: "lines", html, text });
  }

  closeCode() {
    this.fence = null;
    this.ops.push({ op: "end" });
  }
}

const documents = new Map();

self.onmessage = ({ data: { view, text, end, drop } }) => {
  if (drop) {
    documents.delete(view);
    return;
  }
  let document = documents.get(view);
  if (!document) documents.set(view, (document = new Document()));
  if (text) document.append(text);
  if (end) {
    document.end();
    documents.delete(view);
  }
  self.postMessage({ view, ops: document.takeOps() });
};
