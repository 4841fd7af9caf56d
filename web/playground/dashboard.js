// The server's state from /metrics: now, and over the last minutes of watching.
import { h, setText, formatCount, formatRate, formatMs, formatPercent } from "../shared/dom.js";
import { Sparkline } from "../shared/chart.js";
import { quantileBetween, total } from "./prometheus.js";
import { LATENCIES } from "./server_poll.js";

const HISTORY = 300; // readings, one a second
const FINISHED = "vllm:request_success_total";

// Each tile: what it shows of a poll, as number and as text.
const TILES = [
  ["Running", "Requests being answered", (poll) => poll.value("vllm:num_requests_running"), formatCount],
  ["Waiting", "Requests in the queue", (poll) => poll.value("vllm:num_requests_waiting"), formatCount],
  ["KV in use", "Share of the KV cache's blocks held by requests",
    (poll) => poll.value("vllm:kv_cache_usage_perc"), formatPercent],
  ["Cache hits", "Share of prompt tokens found in the prefix cache, since start",
    (poll) => poll.value("vllm:prefix_cache_hits_total") / poll.value("vllm:prefix_cache_queries_total"),
    formatPercent],
  ["Generated", "Tokens per second, all requests together",
    (poll) => poll.perSecond("vllm:generation_tokens_total"), (value) => `${formatRate(value)} tok/s`],
  ["Prompts", "Prompt tokens per second, all requests together",
    (poll) => poll.perSecond("vllm:prompt_tokens_total"), (value) => `${formatRate(value)} tok/s`],
];

export class Dashboard {
  constructor(element, poll) {
    this.poll = poll;
    this.status = h("p", { class: "muted", role: "status" }, "Reading /metrics…");
    this.tiles = TILES.map(([label, title, read, format]) => {
      const value = h("span", { class: "num large" }, "–");
      const canvas = h("canvas", { class: "spark tall", role: "img", "aria-label": `${label} over time` });
      const tile = h("section", { class: "tile", title }, h("h3", { class: "label" }, label), value, canvas);
      return { tile, value, read, format, line: new Sparkline(canvas, { capacity: HISTORY }) };
    });
    this.latencies = LATENCIES.map(([label, name]) => ({
      name, cells: [0.5, 0.9, 0.99].map(() => h("td", { class: "num" }, "–")), label,
    }));
    this.counts = h("dl", { class: "figures wide" });
    element.append(
      h("div", { class: "page-head" }, h("h1", {}, "Server"), this.status),
      h("div", { class: "tiles" }, this.tiles.map((each) => each.tile)),
      h("div", { class: "columns" },
        h("section", { class: "tile" },
          h("h3", { class: "label" }, "Latency, last minute"),
          h("table", { class: "plain" },
            h("thead", {}, h("tr", {}, h("th", {}), ["p50", "p90", "p99"].map((each) => h("th", { scope: "col" }, each)))),
            h("tbody", {}, this.latencies.map(({ label, cells }) =>
              h("tr", {}, h("th", { scope: "row" }, label), cells))))),
        h("section", { class: "tile" }, h("h3", { class: "label" }, "Since start"), this.counts)));
  }

  start() {
    this.stop ??= this.poll.watch((poll) => this.show(poll));
  }

  pause() {
    this.stop?.();
    this.stop = null;
  }

  show(poll) {
    setText(this.status, poll.error ? poll.error.message : "From /metrics, once a second.");
    if (poll.error) return;
    for (const { value, read, format, line } of this.tiles) {
      const number = read(poll);
      setText(value, format(number));
      line.push(number);
      line.draw();
    }
    for (const { name, cells } of this.latencies) {
      [0.5, 0.9, 0.99].forEach((fraction, idx) => {
        setText(cells[idx], formatMs(quantileBetween(poll.oldest, poll.latest, name, fraction) * 1000));
      });
    }
    this.showCounts(poll.latest);
  }

  showCounts(samples) {
    const rows = (samples.get(FINISHED) ?? [])
      .map(({ labels, value }) => [`Finished: ${labels.finished_reason ?? "any"}`, value]);
    rows.push(["Prompt tokens", total(samples, "vllm:prompt_tokens_total")],
      ["Generated tokens", total(samples, "vllm:generation_tokens_total")],
      ["Preemptions", total(samples, "vllm:num_preemptions_total")]);
    this.counts.replaceChildren(...rows.map(([label, value]) =>
      h("div", { class: "figure" }, h("dt", {}, label), h("dd", { class: "num" }, formatCount(value)))));
  }
}
