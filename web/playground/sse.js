// Server-sent events from raw bytes, as they come: any split, LF or CRLF, comments, no [DONE].

export class SseParser {
  // `onData` gets the data of each event, one string.
  constructor(onData) {
    this.onData = onData;
    this.decoder = new TextDecoder();
    this.rest = "";
    this.data = [];
  }

  feed(bytes) {
    const text = this.rest + this.decoder.decode(bytes, { stream: true });
    let start = 0;
    for (let end; (end = text.indexOf("\n", start)) >= 0; start = end + 1) {
      this.line(text.slice(start, text[end - 1] === "\r" && end > start ? end - 1 : end));
    }
    this.rest = text.slice(start);
  }

  // The stream is over; an event without its blank line still counts.
  end() {
    if (this.rest) this.line(this.rest);
    this.rest = "";
    this.line("");
  }

  line(line) {
    if (line === "") {
      if (this.data.length > 0) this.onData(this.data.join("\n"));
      this.data = [];
    } else if (line.startsWith("data:")) {
      this.data.push(line[5] === " " ? line.slice(6) : line.slice(5));
    }
  }
}
