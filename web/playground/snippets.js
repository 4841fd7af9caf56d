// "View as code": the request of this conversation as programs that run as they are shown.
//
// The key is never part of the code; it comes from the environment variable OPENAI_API_KEY, which
// the official clients read too, and may be absent where the server asks for none.
import { h, button, copyButton } from "../shared/dom.js";

// What the official Python client takes by name; the rest goes through extra_body.
const OPENAI_NAMES = new Set([
  "model", "messages", "temperature", "top_p", "seed", "max_completion_tokens", "stop",
  "presence_penalty", "frequency_penalty", "logit_bias",
]);
const LANGCHAIN_NAMES = new Set([
  "temperature", "top_p", "seed", "max_completion_tokens", "stop", "presence_penalty",
  "frequency_penalty", "logit_bias",
]);

// A value as a Python literal. JSON's strings are Python's, but for what stands alone of a pair.
export function pythonLiteral(value, indent = "") {
  const inner = `${indent}    `;
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) {
    if (value.length === 0) return "[]";
    const items = value.map((each) => `${inner}${pythonLiteral(each, inner)},\n`).join("");
    return `[\n${items}${indent}]`;
  }
  if (typeof value === "object") {
    const entries = Object.entries(value);
    if (entries.length === 0) return "{}";
    if (entries.every(([, each]) => typeof each !== "object") && entries.length <= 2) {
      return `{${entries.map(([key, each]) => `${JSON.stringify(key)}: ${pythonLiteral(each)}`).join(", ")}}`;
    }
    const items = entries
      .map(([key, each]) => `${inner}${JSON.stringify(key)}: ${pythonLiteral(each, inner)},\n`).join("");
    return `{\n${items}${indent}}`;
  }
  return JSON.stringify(value);
}

function shellQuote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function split(body, names) {
  const named = {};
  const extra = {};
  for (const [name, value] of Object.entries(body)) (names.has(name) ? named : extra)[name] = value;
  return { named, extra };
}

function pythonArguments(named, extra, indent) {
  const lines = Object.entries(named)
    .map(([name, value]) => `${indent}${name}=${pythonLiteral(value, indent)},\n`);
  if (Object.keys(extra).length > 0) lines.push(`${indent}extra_body=${pythonLiteral(extra, indent)},\n`);
  return lines.join("");
}

function curl(origin, body) {
  return `curl -sSN ${shellQuote(`${origin}/v1/chat/completions`)} \\
  -H "Authorization: Bearer \${OPENAI_API_KEY:-none}" \\
  -H 'Content-Type: application/json' \\
  -d ${shellQuote(JSON.stringify({ ...body, stream: true }, null, 2))}
`;
}

function pythonRequests(origin, body) {
  return `import json
import os

import requests

response = requests.post(
    ${JSON.stringify(`${origin}/v1/chat/completions`)},
    headers={"Authorization": "Bearer " + os.environ.get("OPENAI_API_KEY", "none")},
    json=${pythonLiteral({ ...body, stream: true }, "    ")},
    stream=True,
    timeout=600,
)
response.raise_for_status()
for line in response.iter_lines():
    if not line.startswith(b"data: ") or line == b"data: [DONE]":
        continue
    chunk = json.loads(line[6:])
    if chunk.get("choices"):
        print(chunk["choices"][0]["delta"].get("content") or "", end="", flush=True)
print()
`;
}

function openai(origin, body) {
  const { named, extra } = split(body, OPENAI_NAMES);
  return `import os

from openai import OpenAI

client = OpenAI(
    base_url=${JSON.stringify(`${origin}/v1`)},
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)
stream = client.chat.completions.create(
${pythonArguments(named, extra, "    ")}    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
`;
}

function langchain(origin, body) {
  const { model, messages, ...params } = body;
  const { named, extra } = split(params, LANGCHAIN_NAMES);
  return `import os

from langchain_openai import ChatOpenAI

llm = ChatOpenAI(
    base_url=${JSON.stringify(`${origin}/v1`)},
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
    model=${JSON.stringify(model)},
${pythonArguments(named, extra, "    ")})
messages = ${pythonLiteral(messages)}
for chunk in llm.stream(messages):
    print(chunk.content, end="", flush=True)
print()
`;
}

function javascript(origin, body) {
  return `// Node 18 or newer: save as chat.mjs, run with \`node chat.mjs\`.
const key = process.env.OPENAI_API_KEY ?? "none";
const response = await fetch(${JSON.stringify(`${origin}/v1/chat/completions`)}, {
  method: "POST",
  headers: { "Content-Type": "application/json", Authorization: \`Bearer \${key}\` },
  body: JSON.stringify(${JSON.stringify({ ...body, stream: true }, null, 2).replaceAll("\n", "\n  ")}),
});
if (!response.ok) throw new Error(await response.text());

const decoder = new TextDecoder();
let rest = "";
for await (const bytes of response.body) {
  const lines = (rest + decoder.decode(bytes, { stream: true })).split("\\n");
  rest = lines.pop();
  for (const line of lines) {
    if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
    const chunk = JSON.parse(line.slice(6));
    process.stdout.write(chunk.choices[0]?.delta.content ?? "");
  }
}
console.log();
`;
}

const LANGUAGES = [
  ["curl", "curl", curl],
  ["Python requests", "requests", pythonRequests],
  ["openai", "openai", openai],
  ["langchain-openai", "langchain", langchain],
  ["JavaScript", "javascript", javascript],
];

export function showSnippets(body) {
  const code = h("code", {});
  const shown = h("pre", { class: "snippet", tabindex: "0", "aria-label": "Code" }, code);
  const tabs = LANGUAGES.map(([label, id, make]) => button(label, () => select(id, make), {
    role: "tab", dataset: { snippet: id },
  }));
  const select = (id, make) => {
    for (const tab of tabs) tab.setAttribute("aria-selected", tab.dataset.snippet === id);
    code.textContent = make(location.origin, body);
  };
  const dialog = h("dialog", { class: "large", "aria-label": "View as code" },
    h("div", { class: "pane-head" },
      h("h2", {}, "View as code"),
      copyButton(() => code.textContent, { class: "quiet" }),
      button("Close", () => dialog.close(), { class: "quiet" })),
    h("div", { class: "tabs", role: "tablist" }, tabs),
    shown,
    h("p", { class: "muted" }, "Runs as shown. Where the server wants a key, it is read from ",
      h("code", {}, "OPENAI_API_KEY"), "."));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  select(LANGUAGES[0][1], LANGUAGES[0][2]);
  dialog.showModal();
}
