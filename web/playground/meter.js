// What one answer's speed was: time to first token, rate over the last 250 ms, gaps between tokens.
//
// Tokens are counted per network read: tokens that came in one read share its time, so a gap is the
// time since the read before, divided by the tokens of this one. Nothing here is about the server's
// other requests; those figures come from /metrics and are never mixed with these.

const WINDOW_MS = 250;
const MAX_GAPS = 20_000;

export class Meter {
  begin(now) {
    this.startedAt = now;
    this.firstAt = NaN;
    this.lastAt = NaN;
    this.endedAt = NaN;
    this.tokens = 0;
    this.firstTokens = 0;
    this.gaps = []; // ms per token, one a read
    this.reads = []; // {at, tokens} of the window, and the one before it
    this.usage = null;
    this.timings = null;
    return this;
  }

  token(now, count) {
    if (count <= 0) return;
    this.tokens += count;
    if (Number.isNaN(this.firstAt)) {
      this.firstAt = now;
      this.firstTokens = count;
    } else {
      this.gaps.push((now - this.lastAt) / count);
      if (this.gaps.length > MAX_GAPS) this.gaps.shift();
    }
    this.lastAt = now;
    this.reads.push({ at: now, tokens: count });
    while (this.reads.length > 2 && this.reads[1].at < now - WINDOW_MS) this.reads.shift();
  }

  end(now) {
    this.endedAt = now;
  }

  get running() {
    return Number.isNaN(this.endedAt);
  }

  get ttftMs() {
    return this.firstAt - this.startedAt;
  }

  // Tokens per second of the last 250 ms, or between the last two reads where those are rarer.
  rate(now) {
    if (this.reads.length < 2) return NaN;
    const from = now - WINDOW_MS;
    let first = this.reads.length - 2;
    while (first > 0 && this.reads[first].at > from) first--;
    let tokens = 0;
    for (let idx = first + 1; idx < this.reads.length; idx++) tokens += this.reads[idx].tokens;
    const span = this.lastAt - this.reads[first].at;
    const mean = span / (this.reads.length - 1 - first);
    const silent = now - this.lastAt;
    return (tokens / (silent > 2 * mean + 50 ? span + silent : span)) * 1000;
  }

  // Over the whole answer, from its first token on.
  get meanRate() {
    const span = this.lastAt - this.firstAt;
    return span > 0 ? ((this.tokens - this.firstTokens) / span) * 1000 : NaN;
  }

  percentile(fraction) {
    if (this.gaps.length === 0) return NaN;
    const sorted = Float64Array.from(this.gaps).sort();
    return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * fraction))];
  }

  // What is kept with a message.
  summary() {
    const round = (value) => (Number.isFinite(value) ? Math.round(value * 100) / 100 : null);
    return {
      tokens: this.tokens,
      ttftMs: round(this.ttftMs),
      rate: round(this.timings?.predicted_per_second ?? this.meanRate),
      gapP50Ms: round(this.percentile(0.5)),
      gapP99Ms: round(this.percentile(0.99)),
      roofFraction: this.timings?.roof_fraction ?? null,
      usage: this.usage,
    };
  }
}
