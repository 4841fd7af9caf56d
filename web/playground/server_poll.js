// Reads /metrics once a second while somebody watches and the page is visible.
import { getText } from "./api.js";
import { parseMetrics, total } from "./prometheus.js";

export const LATENCIES = [
  ["First token", "vllm:time_to_first_token_seconds"],
  ["Between tokens", "vllm:inter_token_latency_seconds"],
  ["Whole request", "vllm:e2e_request_latency_seconds"],
  ["In the queue", "vllm:request_queue_time_seconds"],
];
const WANTED = new Set([
  "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
  "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total", "vllm:generation_tokens_total",
  "vllm:prompt_tokens_total", "vllm:num_preemptions_total", "vllm:request_success_total",
  "slipstream:roof_tokens_per_second", ...LATENCIES.map(([, name]) => `${name}_bucket`),
]);
const PERIOD_MS = 1000;
const RATE_READINGS = 3; // rates are over this many readings, so they do not flicker
const KEPT = 61; // one minute for quantiles

export class ServerPoll {
  constructor() {
    this.watchers = new Set();
    this.readings = []; // {at, samples}
    setInterval(() => this.read(), PERIOD_MS);
  }

  // `watcher(poll)` is called after each reading; with an error when there was none.
  watch(watcher) {
    this.watchers.add(watcher);
    this.read();
    return () => this.watchers.delete(watcher);
  }

  async read() {
    if (this.reading || document.hidden || this.watchers.size === 0) return;
    this.reading = true;
    try {
      const text = await getText("/metrics", { quiet: true });
      this.readings.push({ at: performance.now(), samples: parseMetrics(text, WANTED) });
      if (this.readings.length > KEPT) this.readings.shift();
      this.error = null;
    } catch (error) {
      this.error = error;
    }
    this.reading = false;
    for (const watcher of this.watchers) watcher(this);
  }

  get latest() {
    return this.readings.at(-1)?.samples ?? new Map();
  }

  get oldest() {
    return this.readings.length > 1 ? this.readings[0].samples : null;
  }

  value(name) {
    return total(this.latest, name);
  }

  // Growth per second of a counter; NaN before the second reading.
  perSecond(name) {
    const from = this.readings.at(-1 - RATE_READINGS) ?? this.readings[0];
    const to = this.readings.at(-1);
    if (!from || from === to) return NaN;
    const growth = total(to.samples, name) - total(from.samples, name);
    return growth < 0 ? NaN : growth / ((to.at - from.at) / 1000);
  }
}
