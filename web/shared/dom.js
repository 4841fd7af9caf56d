// Making elements, and writing numbers the same way everywhere.

// h("button", {class: "quiet", onclick: f, "aria-label": "Stop"}, "Stop")
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// Text of an element that changes often: touches the document only when it differs.
export function setText(element, text) {
  if (element.firstChild?.nodeType === Node.TEXT_NODE) {
    if (element.firstChild.data !== text) element.firstChild.data = text;
  } else {
    element.textContent = text;
  }
}

export function button(label, onclick, props = {}) {
  return h("button", { type: "button", onclick, ...props }, label);
}

// A button that says for a moment that it did its work.
export function copyButton(getText, props = {}) {
  const element = button("Copy", async () => {
    const done = await copyText(getText());
    setText(element, done ? "Copied" : "Copy failed");
    setTimeout(() => setText(element, "Copy"), 1200);
  }, props);
  return element;
}

// The clipboard interface is absent on plain HTTP from another machine; a selection is not.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { class: "off-screen", value: text });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

const grouped = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export function formatCount(value) {
  return Number.isFinite(value) ? grouped.format(value) : "–";
}

// Three significant digits, or all digits before the point.
export function formatRate(value) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  if (value < 10) return value.toFixed(2);
  if (value < 100) return value.toFixed(1);
  return grouped.format(value);
}

export function formatMs(ms) {
  if (!Number.isFinite(ms)) return "–";
  if (ms < 10) return `${ms.toFixed(2)} ms`;
  if (ms < 100) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${ms.toFixed(0)} ms`;
  return formatDuration(ms / 1000);
}

export function formatDuration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

export function formatPercent(fraction) {
  if (!Number.isFinite(fraction)) return "–";
  const percent = fraction * 100;
  return `${percent.toFixed(percent < 10 ? 1 : 0)} %`;
}

export function saveFile(name, text, type = "application/json") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
