// HTML text into nodes that are safe to show, whatever the text is.
//
// The text is parsed in a template, whose document is inert: nothing loads, nothing runs. Then the
// nodes are built anew from a list of elements and attributes; what is not on the list leaves its
// text behind. Nothing is turned back into text in between, so no second parse can read it otherwise.

const ELEMENTS = new Set(["a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5",
  "h6", "hr", "input", "li", "ol", "p", "pre", "span", "strong", "table", "tbody", "td", "th",
  "thead", "tr", "ul"]);
const ATTRIBUTES = {
  a: { href: /^(https?:|mailto:|#)/i, title: /^/ },
  code: { class: /^language-[\w+-]+$/ },
  input: { type: /^checkbox$/, checked: /^/, disabled: /^/ },
  ol: { start: /^\d{1,9}$/ },
  pre: { class: /^code$/ },
  span: { class: /^hljs-[\w-]+$/ },
  td: { align: /^(left|right|center)$/ },
  th: { align: /^(left|right|center)$/ },
};
const MAX_DEPTH = 100;
const DROPPED_WITH_TEXT = new Set(["script", "style", "template", "iframe", "noscript"]);

const template = document.createElement("template");

export function safeNodes(html) {
  template.innerHTML = html;
  const fragment = document.createDocumentFragment();
  for (const node of template.content.childNodes) copy(node, fragment, 0);
  template.innerHTML = "";
  return fragment;
}

function copy(node, target, depth) {
  if (node.nodeType === Node.TEXT_NODE) {
    target.append(document.createTextNode(node.data));
    return;
  }
  if (node.nodeType !== Node.ELEMENT_NODE || depth > MAX_DEPTH) return;
  const name = node.localName;
  if (DROPPED_WITH_TEXT.has(name)) return;
  let made = target;
  if (ELEMENTS.has(name) && !(name === "input" && node.getAttribute("type") !== "checkbox")) {
    made = document.createElement(name);
    for (const [attribute, allowed] of Object.entries(ATTRIBUTES[name] ?? {})) {
      const value = node.getAttribute(attribute);
      if (value !== null && allowed.test(value)) made.setAttribute(attribute, value);
    }
    if (name === "a") {
      made.target = "_blank";
      made.rel = "noopener noreferrer";
    }
    target.append(made);
  }
  for (const child of node.childNodes) copy(child, made, depth + 1);
}
