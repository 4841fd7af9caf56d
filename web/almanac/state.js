// What the page shows, kept in the address so that a view can be shared. It lives behind '#', which
// works for a page opened from disk too.

const LISTS = ["weights", "gpu", "engine", "price"];
const DEFAULTS = {
  view: "explore", model: "", shape: "", campaign: "", limit: "", percentile: "p50",
  rate: "requests_s", latency: "ttft", point: "", invalid: "", sort: "", want: "",
  weights: [], gpu: [], engine: [], price: [],
};
const CHOICES = {
  view: ["explore", "summary", "method", "data"],
  percentile: ["p50", "p99"],
  rate: ["requests_s", "output_tok_s", "total_tok_s"],
  latency: ["ttft", "tpot", "itl", "e2e"],
};

function parseState(hash) {
  const params = new URLSearchParams(hash.replace(/^#/, ""));
  const state = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS)) {
    if (LISTS.includes(name)) state[name] = params.getAll(name);
    else if (params.has(name)) state[name] = params.get(name);
    if (CHOICES[name] && !CHOICES[name].includes(state[name])) state[name] = DEFAULTS[name];
  }
  // A limit is a time of the first token in ms.
  if (!(Number(state.limit) > 0)) state.limit = "";
  return state;
}

function stateHash(state) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (LISTS.includes(name)) value.forEach((each) => params.append(name, each));
    else if (value !== DEFAULTS[name]) params.set(name, value);
  }
  const text = params.toString();
  return text ? `#${text}` : "#";
}

export class State {
  constructor(onChange) {
    this.onChange = onChange;
    this.values = parseState(location.hash);
    window.addEventListener("hashchange", () => {
      this.values = parseState(location.hash);
      onChange();
    });
  }

  // `step`: the browser's Back returns to the view before.
  set(changes, { step = false } = {}) {
    this.values = { ...this.values, ...changes };
    history[step ? "pushState" : "replaceState"](null, "", stateHash(this.values));
    this.onChange();
  }

  // Prices by device, as "H200:3.5".
  prices() {
    return new Map(this.values.price.map((text) => {
      const colon = text.lastIndexOf(":");
      return [text.slice(0, colon), Number(text.slice(colon + 1))];
    }).filter(([, price]) => price > 0));
  }

  setPrice(device, text) {
    const others = this.values.price.filter((each) => !each.startsWith(`${device}:`));
    this.set({ price: Number(text) > 0 ? [...others, `${device}:${Number(text)}`] : others });
  }
}
