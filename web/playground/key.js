// The API key: asked once when the server wants one, kept for this tab, or on this device if the
// reader says so (sessionStorage, localStorage). It is sent to this server only.
import { h, button } from "../shared/dom.js";

const NAME = "slipstream-api-key";
let asking = null;

export function apiKey() {
  return sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME) ?? "";
}

export function forgetKey() {
  sessionStorage.removeItem(NAME);
  localStorage.removeItem(NAME);
}

// Resolves to whether a key was given. Calls while the question is open share its answer.
export function askKey() {
  asking ??= showDialog().finally(() => (asking = null));
  return asking;
}

function showDialog() {
  return new Promise((resolve) => {
    const input = h("input", {
      id: "api-key", type: "password", autocomplete: "off", required: true, spellcheck: "false",
    });
    const keep = h("input", { type: "checkbox", id: "keep-key" });
    const form = h("form", { method: "dialog" },
      h("h2", {}, "API key"),
      h("p", { class: "muted" }, apiKey()
        ? "The server refused the key it was given."
        : "This server answers only with a key."),
      h("label", { for: "api-key" }, "Key"), input,
      h("label", { class: "check", for: "keep-key" }, keep,
        "Remember on this device (else until the tab closes)"),
      h("div", { class: "row end" },
        button("Cancel", () => dialog.close("")),
        h("button", { class: "primary", value: "ok" }, "Use key")));
    const dialog = h("dialog", { class: "small", "aria-label": "API key" }, form);
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "ok" && input.value.trim() !== "";
      if (given) {
        forgetKey();
        (keep.checked ? localStorage : sessionStorage).setItem(NAME, input.value.trim());
      }
      dialog.remove();
      resolve(given);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
