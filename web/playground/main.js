// Puts the page together: views, tabs, the composer, and what they share.
import { h, button, setText } from "../shared/dom.js";
import { getJson } from "./api.js";
import { ChatView } from "./chat_view.js";
import { CompareView } from "./compare.js";
import { Dashboard } from "./dashboard.js";
import { requestBody } from "./generation.js";
import { MetricsView } from "./metrics_view.js";
import { ParamsPanel, loadParameters } from "./params.js";
import { PreviewPane } from "./preview.js";
import { ReplayView } from "./replay.js";
import { ServerPoll } from "./server_poll.js";
import { Sidebar } from "./sidebar.js";
import { showSnippets } from "./snippets.js";
import { Store, activePath, newConversation, promptMessages } from "./store.js";

const $ = (id) => document.getElementById(id);
const PHONE = matchMedia("(max-width: 899px)");
const RETRY_MS = 1000;
const TABS = [["chat", "Chat"], ["compare", "Compare"], ["replay", "Replay"], ["server", "Server"]];

function notify(text, action) {
  const parts = [h("span", {}, text)];
  const close = () => $("notice").replaceChildren();
  if (action) parts.push(button(action.label, () => { close(); action.act(); }, { class: "quiet" }));
  parts.push(button("×", close, { class: "quiet", "aria-label": "Dismiss" }));
  $("notice").replaceChildren(h("div", {}, parts));
}

class App {
  async start() {
    this.model = "";
    this.answer = null; // the newest answer of this chat: what a replay plays
    this.store = await Store.open();
    this.poll = new ServerPoll();
    this.metrics = new MetricsView($("instruments"), $("strip"));
    this.preview = new PreviewPane($("preview"), {
      onToggle: (open) => $("view-chat").classList.toggle("with-preview", open),
    });
    this.sidebar = new Sidebar($("sidebar"), this.store, {
      onOpen: (id) => this.open(this.store.conversations.get(id)),
      onNew: () => this.open(this.fresh()),
      onDeleted: (id) => {
        if (id === this.conversation.id) this.open(this.store.list()[0] ?? this.fresh());
        else this.sidebar.show(this.conversation.id);
      },
      notify,
    });
    this.makeChat();
    this.makeComposer();
    this.makeTabs();
    this.makeDrawers();
    this.open(this.store.list()[0] ?? this.fresh());
    await this.connect();
  }

  makeChat() {
    this.chat = new ChatView($("thread"), {
      getModel: () => this.model,
      metrics: this.metrics,
      preview: this.preview,
      save: (conversation) => this.save(conversation),
      onBusy: (busy) => this.showBusy(busy),
      onAnswer: (node, body) => {
        if (node.content) this.answer = { node, body };
      },
    });
  }

  // The model and the parameter table. Both may need a key, so nothing else asks before.
  async connect() {
    let parameters = [];
    try {
      const models = await getJson("/v1/models");
      this.model = models.data[0]?.id ?? "";
      setText($("model"), this.model);
      document.title = `${this.model} · Slipstream`;
      parameters = await loadParameters();
    } catch (error) {
      const soon = error.status === 503; // the server listens before its model is loaded
      notify(soon ? "The model is loading…" : error.message,
        soon ? undefined : { label: "Try again", act: () => this.connect() });
      if (soon) setTimeout(() => this.connect(), RETRY_MS);
      return;
    }
    $("notice").replaceChildren();
    this.params = new ParamsPanel(this.paramsBox, parameters, { onChange: () => this.saveSoon() });
    this.params.bind(this.conversation.params);
    this.compare = new CompareView($("view-compare"), parameters, {
      getModel: () => this.model, getSystem: () => this.conversation.system,
    });
    this.replay = new ReplayView($("view-replay"), {
      getModel: () => this.model, getAnswer: () => this.answer,
    });
    this.dashboard = new Dashboard($("view-server"), this.poll);
    this.poll.watch((poll) => this.metrics.showServer({
      rate: poll.perSecond("vllm:generation_tokens_total"),
      running: poll.value("vllm:num_requests_running"),
      waiting: poll.value("vllm:num_requests_waiting"),
      roofRate: poll.value("slipstream:roof_tokens_per_second"),
      latencyGear: poll.value("slipstream:latency_gear"),
    }));
    document.body.dataset.ready = "true";
    this.showTab(location.hash.slice(1));
  }

  // A new chat keeps the settings of the one before.
  fresh() {
    return newConversation(this.conversation ?? {});
  }

  open(conversation) {
    this.conversation = conversation;
    this.answer = null;
    if (this.preview.isOpen) this.preview.close();
    this.chat.open(conversation);
    this.system.value = conversation.system;
    this.params?.bind(conversation.params);
    this.sidebar.show(conversation.id);
    const last = activePath(conversation).findLast((node) => node.role === "assistant" && node.content);
    if (last) this.answer = { node: last, body: this.chat.body(last.parent) };
    if (!PHONE.matches) this.prompt.focus();
    this.closeDrawers?.();
  }

  async save(conversation) {
    try {
      await this.store.save(conversation);
    } catch (error) {
      notify(`This browser did not keep the chat: ${error.message}`);
    }
    this.sidebar.show(this.conversation.id);
  }

  // Settings are kept with the chat, once it has a message.
  saveSoon() {
    clearTimeout(this.saveTimer);
    this.saveTimer = setTimeout(() => {
      if (this.store.conversations.has(this.conversation.id)) this.store.save(this.conversation);
    }, 400);
  }

  makeComposer() {
    this.prompt = h("textarea", {
      id: "prompt", rows: 1, "aria-label": "Message", autocomplete: "off",
      placeholder: "Message", enterkeyhint: "send",
    });
    this.sendButton = h("button", { class: "primary", id: "send" }, "Send");
    const grow = () => {
      this.prompt.style.height = "auto";
      this.prompt.style.height = `${Math.min(this.prompt.scrollHeight + 2, 260)}px`;
    };
    const submit = () => {
      if (this.chat.busy) return this.chat.stop();
      const text = this.prompt.value.trim();
      if (!text || !this.model) return;
      this.prompt.value = "";
      grow();
      this.chat.send(text);
    };
    this.prompt.addEventListener("input", grow);
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.chat.busy) submit();
    });
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      submit();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.chat.busy && !document.querySelector("dialog[open]")) {
        this.chat.stop();
      }
    });
    $("composer").append(
      h("div", { class: "composer-box" }, this.prompt, this.sendButton),
      h("p", { class: "hint muted" }, h("kbd", {}, "Enter"), " sends, ", h("kbd", {}, "Shift Enter"),
        " breaks the line, ", h("kbd", {}, "Esc"), " stops"));

    this.system = h("textarea", {
      id: "system", rows: 3, placeholder: "You are…",
      oninput: () => {
        this.conversation.system = this.system.value;
        this.saveSoon();
      },
    });
    this.paramsBox = h("div", { id: "params" });
    $("controls").append(
      h("div", { class: "label-row" }, h("h2", { class: "label" }, "Settings"),
        button("View as code", () => this.viewCode(), { class: "quiet", id: "view-code" })),
      h("div", { class: "param wide" }, h("label", { for: "system" }, "System prompt"), this.system),
      this.paramsBox);
  }

  // The request that Send would make now.
  viewCode() {
    const path = activePath(this.conversation);
    const draft = this.prompt.value.trim();
    const last = path.findLast((node) => node.role === "user");
    let messages;
    if (draft) {
      const below = path.at(-1)?.id ?? "root";
      messages = [...promptMessages(this.conversation, below), { role: "user", content: draft }];
    } else if (last) {
      messages = promptMessages(this.conversation, last.id);
    } else {
      messages = [...promptMessages(this.conversation, "root"), { role: "user", content: "Hello!" }];
    }
    showSnippets(requestBody({ model: this.model, messages, params: this.conversation.params }));
  }

  showBusy(busy) {
    setText(this.sendButton, busy ? "Stop" : "Send");
    this.sendButton.classList.toggle("is-stop", busy);
    $("strip").classList.add("has-data");
  }

  makeTabs() {
    const tabs = TABS.map(([id, label], idx) => button(label, () => this.showTab(id), {
      role: "tab", id: `tab-${id}`, "aria-controls": `view-${id}`,
      onkeydown: (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = (idx + step + TABS.length) % TABS.length;
        this.showTab(TABS[next][0]);
        tabs[next].focus();
      },
    }));
    $("tabs").append(...tabs);
    this.showTab(location.hash.slice(1));
    addEventListener("hashchange", () => this.showTab(location.hash.slice(1)));
  }

  showTab(wanted) {
    const id = TABS.some(([each]) => each === wanted) ? wanted : "chat";
    for (const [each] of TABS) {
      $(`tab-${each}`).setAttribute("aria-selected", each === id);
      $(`tab-${each}`).tabIndex = each === id ? 0 : -1;
      $(`view-${each}`).hidden = each !== id;
    }
    document.body.dataset.view = id;
    history.replaceState(null, "", id === "chat" ? location.pathname : `#${id}`);
    if (id === "server") this.dashboard?.start();
    else this.dashboard?.pause();
  }

  // On a phone the list of chats and the settings lie over the thread, one at a time.
  makeDrawers() {
    const drawers = [[$("menu"), $("sidebar")], [$("settings"), $("inspector")]];
    const show = (wanted) => {
      for (const [opener, drawer] of drawers) {
        const open = drawer === wanted;
        drawer.classList.toggle("is-open", open);
        drawer.inert = PHONE.matches && !open;
        opener.setAttribute("aria-expanded", open);
      }
    };
    for (const [opener, drawer] of drawers) {
      opener.addEventListener("click", () => {
        const wasOpen = drawer.classList.contains("is-open") && document.body.dataset.view === "chat";
        this.showTab("chat");
        show(wasOpen ? null : drawer);
      });
    }
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") show(null);
    });
    PHONE.addEventListener("change", () => show(null));
    this.closeDrawers = () => show(null);
    show(null);
  }
}

new App().start();
