// One answer being made: sends the request, counts its tokens, hands on its text.
import { streamChat } from "./api.js";
import { Meter } from "./meter.js";

// The request as the page sends it; params holds only what the reader has set.
export function requestBody({ model, messages, params }) {
  return { model, messages, ...params };
}

export class Generation {
  constructor(body, { onText }) {
    this.body = body;
    this.onText = onText;
    this.meter = new Meter();
    this.text = "";
    this.cuts = []; // length of each piece: what a replay plays
    this.finish = null;
    this.error = null;
    this.abort = new AbortController();
  }

  // Resolves when the answer is over, however it ended; never rejects.
  async run() {
    this.meter.begin(performance.now());
    const body = {
      ...this.body,
      stream: true,
      stream_options: { include_usage: true, continuous_usage_stats: true },
      timings: true,
    };
    try {
      await streamChat(body, {
        signal: this.abort.signal,
        onRead: (now, chunks) => this.read(now, chunks),
      });
    } catch (error) {
      if (error.name === "AbortError") this.finish = "stopped";
      else this.error = error;
    }
    this.meter.end(performance.now());
    return this;
  }

  stop() {
    this.abort.abort();
  }

  // Tokens are counted by the server's usage where chunks carry it, else one a chunk with text.
  read(now, chunks) {
    let text = "";
    let tokens = 0;
    for (const chunk of chunks) {
      const choice = chunk.choices?.[0];
      const piece = choice?.delta?.content ?? "";
      const reported = chunk.usage?.completion_tokens;
      if (reported !== undefined) {
        tokens += Math.max(0, reported - this.meter.tokens - tokens);
        this.meter.usage = chunk.usage;
      } else if (piece !== "") {
        tokens += 1;
      }
      if (piece !== "") {
        text += piece;
        this.cuts.push(piece.length);
      }
      if (choice?.finish_reason) this.finish = choice.finish_reason;
      if (chunk.timings) this.meter.timings = chunk.timings;
    }
    this.meter.token(now, tokens);
    if (text !== "") {
      this.text += text;
      this.onText(text);
    }
  }
}
