// One measurement in full: the commands that repeat it, its figures, its rows as stored.
import { h, button, copyButton, formatCount, formatRate } from "../shared/dom.js";
import { isLagging } from "./points.js";
import {
  cautions, deviceLabel, engineLabel, latencyText, loadLabel, precisionLabel, shapeLabel, withInterval,
} from "./labels.js";

// A script that runs as it stands: the server behind, the client when it answers.
function snippet(point) {
  const { server_command: server, client_command: client } = point;
  if (!client) return "";
  if (!server) return `${client}\n`;
  return `# Terminal 1: the server\n${server}\n\n# Terminal 2, when it is ready: the client\n${client}\n`;
}

function code(text, label) {
  return h("figure", { class: "code" },
    h("figcaption", {}, h("span", { class: "label" }, label), copyButton(() => text, { class: "quiet" })),
    h("pre", { tabindex: "0" }, h("code", {}, text)));
}

function figureTile(label, value, note) {
  return h("div", { class: "tile" }, h("span", { class: "label" }, label),
    h("span", { class: "big num" }, value), h("span", { class: "muted small" }, note));
}

export class PointPanel {
  constructor(dialog, { onClose }) {
    this.dialog = dialog;
    dialog.addEventListener("close", onClose);
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
  }

  show(series, percentile) {
    if (!series) {
      if (this.dialog.open) this.dialog.close();
      return;
    }
    const { first, figures } = series;
    const script = snippet(first);
    this.dialog.replaceChildren(
      h("div", { class: "dialog-head" },
        h("div", {}, h("h2", { id: "point-title" }, engineLabel(first)),
          h("p", { class: "muted" }, [first.model, shapeLabel(series.shape), precisionLabel(first),
            deviceLabel(series), loadLabel(first)].join(" · "))),
        button("Close", () => this.dialog.close())),
      h("div", { class: "dialog-body" },
        h("div", { class: "tiles" },
          figureTile("First token", latencyText(figures[`ttft_ms_${percentile}`]), `${percentile}, from sending a request`),
          figureTile("Decode, one request", `${formatRate(figures[`decode_tok_s_${percentile}`]?.mean ?? NaN)} tok/s`, `${percentile}, after the first token`),
          figureTile("All requests together", `${withInterval(figures.output_tok_s)} tok/s`, `output; ${withInterval(figures.requests_s)} requests/s`)),
        h("ul", { class: "cautions" }, cautions(series).map(([mark, why]) =>
          h("li", {}, h("b", {}, mark), `: ${why}`))),
        script ? [code(script, first.server_command ? "Run it again" : "Run it again, one command"),
          h("p", { class: "muted small" }, "Commands come with the contributed records: read them before you run them.")]
          : h("p", { class: "empty" }, "The record of this point carries no command."),
        this.rows(series)));
    if (!this.dialog.open) this.dialog.showModal();
  }

  // Columns down, repeats across: rows have some eighty columns.
  rows(series) {
    const { points } = series;
    const names = Object.keys(points[0]).filter((name) => points.some((point) => point[name] !== null && point[name] !== ""));
    return [
      h("h3", {}, `Raw rows (${formatCount(points.length)})`),
      h("p", { class: "muted small" }, "Everything that is stored; the record as it was imported is in the JSON lines under Data."),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Raw rows" },
        h("table", { class: "raw" },
          h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "column"), points.map((point) =>
            h("th", { scope: "col", class: "num" }, `repeat ${point.repeat}${isLagging(point) ? ", invalid" : ""}`)))),
          h("tbody", {}, names.map((name) => h("tr", {}, h("th", { scope: "row" }, name),
            points.map((point) => h("td", {}, point[name] === null ? "" : String(point[name])))))))),
    ];
  }
}
