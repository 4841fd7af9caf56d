// The list of conversations: new, open, delete, export, import.
import { h, button, saveFile } from "../shared/dom.js";
import { exportText, importText } from "./store.js";

export class Sidebar {
  constructor(element, store, { onOpen, onNew, onDeleted, notify }) {
    this.store = store;
    this.onOpen = onOpen;
    this.onDeleted = onDeleted;
    this.notify = notify;
    this.current = null;
    this.list = h("ul", { class: "chats" });
    const file = h("input", {
      type: "file", accept: "application/json,.json", hidden: true, "aria-label": "File to import",
      onchange: () => this.importFile(file),
    });
    element.append(
      button("New chat", onNew, { class: "wide", id: "new-chat" }),
      this.list,
      h("div", { class: "row" },
        button("Export", () => this.exportAll(), { class: "quiet", id: "export" }),
        button("Import", () => file.click(), { class: "quiet", id: "import" }), file));
  }

  show(currentId) {
    this.current = currentId;
    this.list.replaceChildren(...this.store.list().map((conversation) => {
      const title = conversation.title || "New chat";
      return h("li", { "aria-current": conversation.id === currentId ? "true" : null },
        button(title, () => this.onOpen(conversation.id), { class: "chat-title", title }),
        button("×", () => this.remove(conversation), { class: "quiet", "aria-label": `Delete ${title}` }));
    }));
  }

  async remove(conversation) {
    await this.store.remove(conversation.id);
    this.onDeleted(conversation.id);
    this.notify(`Deleted “${conversation.title || "New chat"}”.`, {
      label: "Undo",
      act: async () => {
        await this.store.save(conversation);
        this.onOpen(conversation.id);
      },
    });
  }

  exportAll() {
    const day = new Date().toISOString().slice(0, 10);
    saveFile(`slipstream-chats-${day}.json`, exportText(this.store.list()));
  }

  async importFile(input) {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    try {
      const added = importText(await file.text());
      for (const each of added) await this.store.save(each);
      this.notify(`Imported ${added.length} ${added.length === 1 ? "chat" : "chats"}.`);
      if (added.length > 0) this.onOpen(added[0].id);
    } catch (error) {
      this.notify(error.message);
    }
  }
}
