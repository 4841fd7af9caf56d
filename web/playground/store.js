// Conversations: trees of messages, kept on this device (IndexedDB), exported and imported as JSON.
//
// A conversation is {id, title, created, updated, system, params, root, nodes}. A node is
// {id, role, content, parent, children, active, ...}; `active` is the child that is shown, so every
// edit and every regenerated answer is a branch and nothing is lost.

const DATABASE = "slipstream";
const FORMAT = "slipstream-conversations";
const ROOT = "root";
const NODE_ID = /^[a-z0-9]{1,64}$/;
const ROLES = new Set(["user", "assistant"]);

export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(8))]
    .map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation({ system = "", params = {} } = {}) {
  const now = Date.now();
  return {
    id: newId(), title: "", created: now, updated: now, system, params: { ...params },
    nodes: { [ROOT]: { id: ROOT, role: "root", content: "", parent: null, children: [], active: null } },
  };
}

// Adds a message below `parentId` and shows it.
export function addMessage(conversation, parentId, message) {
  const node = { id: newId(), parent: parentId, children: [], active: null, ...message };
  const parent = conversation.nodes[parentId];
  conversation.nodes[node.id] = node;
  parent.children.push(node.id);
  parent.active = node.id;
  conversation.updated = Date.now();
  if (!conversation.title && node.role === "user") {
    conversation.title = node.content.trim().split("\n")[0].slice(0, 60);
  }
  return node;
}

// The messages shown, oldest first.
export function activePath(conversation) {
  const path = [];
  let node = conversation.nodes[ROOT];
  while (node.active) {
    node = conversation.nodes[node.active];
    path.push(node);
  }
  return path;
}

export function leafId(conversation) {
  return activePath(conversation).at(-1)?.id ?? ROOT;
}

// Shows the sibling `step` places after this one.
export function switchBranch(conversation, nodeId, step) {
  const parent = conversation.nodes[conversation.nodes[nodeId].parent];
  const idx = parent.children.indexOf(nodeId) + step;
  if (idx >= 0 && idx < parent.children.length) parent.active = parent.children[idx];
}

export function branchOf(conversation, nodeId) {
  const siblings = conversation.nodes[conversation.nodes[nodeId].parent].children;
  return { idx: siblings.indexOf(nodeId), count: siblings.length };
}

// What the model is asked: the system prompt and the messages up to and with `nodeId`.
export function promptMessages(conversation, nodeId) {
  const messages = [];
  for (let node = conversation.nodes[nodeId]; node.parent !== null; node = conversation.nodes[node.parent]) {
    messages.unshift({ role: node.role, content: node.content });
  }
  const system = conversation.system.trim();
  return system ? [{ role: "system", content: system }, ...messages] : messages;
}

export function exportText(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 2);
}

// Conversations of an exported file under new ids. Throws an Error that says what is wrong.
export function importText(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch (error) {
    throw new Error(`This file is not JSON: ${error.message}`);
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) {
    throw new Error("This file was not exported by the playground.");
  }
  return file.conversations.map((each, idx) => {
    if (!isConversation(each)) throw new Error(`Conversation ${idx + 1} of the file is damaged.`);
    return { ...each, id: newId(), updated: Number(each.updated) || Date.now() };
  });
}

// Every node is reachable from the root once, and every reference meets its answer.
function isConversation(value) {
  if (typeof value?.title !== "string" || typeof value.system !== "string") return false;
  if (typeof value.nodes !== "object" || !value.nodes?.[ROOT] || typeof value.params !== "object") {
    return false;
  }
  const seen = new Set();
  const waiting = [[ROOT, null]];
  while (waiting.length > 0) {
    const [id, parent] = waiting.pop();
    const node = Object.hasOwn(value.nodes, id) ? value.nodes[id] : null;
    if (!node || seen.has(id) || node.id !== id || node.parent !== parent) return false;
    if (typeof node.content !== "string" || !Array.isArray(node.children)) return false;
    if (id !== ROOT && !ROLES.has(node.role)) return false;
    if (node.active !== null && !node.children.includes(node.active)) return false;
    if (!NODE_ID.test(id)) return false;
    seen.add(id);
    for (const child of node.children) waiting.push([child, id]);
  }
  return seen.size === Object.keys(value.nodes).length;
}

// An answer that was being made when the page went is over.
function settled(conversation) {
  for (const node of Object.values(conversation.nodes)) {
    if (!node.pending) continue;
    delete node.pending;
    node.finish = "stopped";
  }
  return conversation;
}

function asPromise(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export class Store {
  // Works in memory where the browser keeps nothing (private windows of some).
  static async open() {
    const store = new Store();
    store.conversations = new Map();
    try {
      const request = indexedDB.open(DATABASE, 1);
      request.onupgradeneeded = () =>
        request.result.createObjectStore("conversations", { keyPath: "id" });
      store.database = await asPromise(request);
      const kept = await asPromise(store.table("readonly").getAll());
      for (const each of kept) store.conversations.set(each.id, settled(each));
    } catch {
      store.database = null;
    }
    return store;
  }

  table(mode) {
    return this.database.transaction("conversations", mode).objectStore("conversations");
  }

  // Newest first.
  list() {
    return [...this.conversations.values()].sort((a, b) => b.updated - a.updated);
  }

  async save(conversation) {
    this.conversations.set(conversation.id, conversation);
    if (this.database) await asPromise(this.table("readwrite").put(conversation));
  }

  async remove(id) {
    this.conversations.delete(id);
    if (this.database) await asPromise(this.table("readwrite").delete(id));
  }
}
