// A line of numbers over time on a canvas. Drawn only when asked, in the colours of the page.

export class Sparkline {
  // `capacity` values are kept, the oldest leave. `min` is the value at the bottom.
  constructor(canvas, { capacity = 160, min = 0, bars = false } = {}) {
    this.canvas = canvas;
    this.capacity = capacity;
    this.min = min;
    this.bars = bars;
    this.values = [];
    this.dirty = true;
    new ResizeObserver(() => {
      this.dirty = true;
      this.draw();
    }).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.dirty = true;
      this.draw();
    });
  }

  push(value) {
    this.values.push(value);
    if (this.values.length > this.capacity) this.values.shift();
    this.dirty = true;
  }

  set(values) {
    this.values = values.slice(-this.capacity);
    this.dirty = true;
  }

  clear() {
    this.set([]);
  }

  // The largest value drawn, with room above; a single spike does not flatten the rest.
  top() {
    const sorted = this.values.filter(Number.isFinite).sort((a, b) => a - b);
    if (sorted.length === 0) return this.min + 1;
    const high = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * 0.98))];
    return Math.max(high * 1.25, this.min + 1e-9);
  }

  draw() {
    if (!this.dirty) return;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (width === 0 || height === 0) return;
    this.dirty = false;
    const scale = devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * scale)) this.canvas.width = width * scale;
    if (this.canvas.height !== Math.round(height * scale)) this.canvas.height = height * scale;
    const context = this.canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(this.canvas);
    context.fillStyle = style.getPropertyValue("--hairline");
    context.fillRect(0, height - 1, width, 1);
    const top = this.top();
    const y = (value) =>
      height - 1 - Math.min(1, Math.max(0, (value - this.min) / (top - this.min))) * (height - 3);
    // A line that has just begun is not squeezed into the room of a long one.
    const places = this.bars ? this.capacity : Math.max(this.values.length, this.capacity / 5);
    const step = width / places;
    const color = style.getPropertyValue("--accent");
    if (this.bars) this.drawBars(context, { step, y, height, color });
    else this.drawLine(context, { step, y, width, height, color });
  }

  drawBars(context, { step, y, height, color }) {
    context.fillStyle = color;
    this.values.forEach((value, idx) => {
      if (!Number.isFinite(value)) return;
      const at = y(value);
      context.fillRect(idx * step, at, Math.max(1, step - 1), height - 1 - at);
    });
  }

  drawLine(context, { step, y, width, height, color }) {
    if (this.values.length < 2) return;
    const first = width - (this.values.length - 1) * step; // the newest value is at the right edge
    context.beginPath();
    this.values.forEach((value, idx) => {
      const at = y(Number.isFinite(value) ? value : this.min);
      if (idx === 0) context.moveTo(first, at);
      else context.lineTo(first + idx * step, at);
    });
    context.strokeStyle = color;
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    context.stroke();
    context.lineTo(width, height - 1);
    context.lineTo(first, height - 1);
    context.globalAlpha = 0.1;
    context.fillStyle = color;
    context.fill();
    context.globalAlpha = 1;
  }
}
