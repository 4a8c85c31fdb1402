// What the person looks at. It lives in the address, so that a link or a bookmark shows the same again.

const TARGET = "target.";
const PLOTS = ["map", "front"];
const PATIENCE = 250; // ms between two changes of the address: browsers refuse more than some six a second

export class State {
  constructor(data) {
    this.data = data;
    this.listeners = [];
    this.values = {
      colour: "", across: "", up: "", paths: "chosen", filter: "", run: -1, chosen: -1, box: null, chip: null,
      targets: {}, from: -1, to: -1, "view.map": null, "view.front": null,
    };
    this.hidden = null; // Uint8Array: 1 where the filter by run hides a checkpoint
    this.selected = null; // Uint8Array: 1 inside the box; null: nothing is selected
    this.meeting = null; // Uint8Array: 1 where all targets are measurably met; null: there is no target
  }

  get(name) {
    return this.values[name];
  }

  on(listener) {
    this.listeners.push(listener);
  }

  set(changes) {
    Object.assign(this.values, changes);
    const names = new Set(Object.keys(changes));
    this.mark(names);
    for (const listener of this.listeners) listener(names);
    this.written ??= setTimeout(() => this.write(), PATIENCE);
  }

  write() {
    this.written = null;
    history.replaceState(null, "", this.address());
  }

  mark(names) {
    const { data, values } = this;
    if (names.has("filter")) {
      const words = values.filter.toLowerCase().split(/\s+/).filter(Boolean);
      const fits = data.runs.map((r) => words.every((w) => `${r.label} ${r.name}`.toLowerCase().includes(w)));
      this.hidden = words.length ? Uint8Array.from(data.run, (run) => (fits[run] ? 0 : 1)) : null;
    }
    if (names.has("box") || names.has("chip") || names.has("filter")) this.selected = this.marked();
    if (names.has("targets")) this.meeting = this.whoMeets();
  }

  marked() {
    const { data, hidden } = this;
    const { box, chip } = this.values;
    if (box === null && chip === null) return null;
    const out = new Uint8Array(data.n);
    if (chip !== null) {
      const values = data.perCheckpoint(chip.key);
      for (let i = 0; i < data.n; i++) out[i] = values[i] === chip.code && !hidden?.[i] ? 1 : 0;
      return out;
    }
    const [xs, ys] = [data.perCheckpoint(box.across), data.perCheckpoint(box.up)];
    const [left, right, bottom, top] = box.ends;
    for (let i = 0; i < data.n; i++) {
      out[i] = xs[i] >= left && xs[i] <= right && ys[i] >= bottom && ys[i] <= top && !hidden?.[i] ? 1 : 0;
    }
    return out;
  }

  whoMeets() {
    const { data } = this;
    const wanted = Object.entries(this.values.targets);
    if (wanted.length === 0) return null;
    const out = new Uint8Array(data.n).fill(1);
    for (const [name, value] of wanted) {
      const { maximize } = data.objectives.find((o) => o.name === name);
      const values = data.values(`metric:${name}`);
      for (let i = 0; i < data.n; i++) if (!(maximize ? values[i] >= value : values[i] <= value)) out[i] = 0;
    }
    return out;
  }

  address() {
    const { data, values } = this;
    const out = new URLSearchParams();
    for (const name of ["colour", "across", "up"]) out.set(name, values[name]);
    if (values.paths !== "chosen") out.set("paths", values.paths);
    if (values.filter) out.set("filter", values.filter);
    if (values.run >= 0) out.set("run", data.runs[values.run].name);
    for (const name of ["chosen", "from", "to"]) if (values[name] >= 0) out.set(name, data.handle(values[name]));
    if (values.box) out.set("box", [values.box.across, values.box.up, ...values.box.ends].map(encodeURIComponent).join(","));
    if (values.chip) out.set("chip", [values.chip.key, data.byKey.get(values.chip.key).categories[values.chip.code]].map(encodeURIComponent).join(","));
    for (const plot of PLOTS) {
      const view = values[`view.${plot}`];
      if (view) out.set(`view.${plot}`, [...view.x, ...view.y].map((v) => Number(v.toPrecision(6))).join(","));
    }
    for (const [name, value] of Object.entries(values.targets)) out.set(TARGET + name, value);
    return `#${out}`;
  }

  /** Read the address; what it says of things that are not there is left out. */
  restore(text, defaults) {
    const { data } = this;
    const said = new URLSearchParams(text.replace(/^#/, ""));
    const changes = { ...this.values, ...defaults };
    for (const name of ["colour", "across", "up"]) if (data.byKey.has(said.get(name))) changes[name] = said.get(name);
    if (["chosen", "selected", "all"].includes(said.get("paths"))) changes.paths = said.get("paths");
    changes.filter = said.get("filter") ?? "";
    changes.run = data.runs.findIndex((r) => r.name === said.get("run"));
    for (const name of ["chosen", "from", "to"]) changes[name] = data.rowOf.get(said.get(name)) ?? -1;
    const [across, up, ...ends] = (said.get("box") ?? "").split(",").map(decodeURIComponent);
    if (data.byKey.has(across) && data.byKey.has(up) && ends.length === 4 && ends.every((e) => Number.isFinite(Number(e)))) {
      changes.box = { across, up, ends: ends.map(Number) };
    }
    const [key, category] = (said.get("chip") ?? "").split(",").map(decodeURIComponent);
    const code = data.byKey.get(key)?.categories?.indexOf(category) ?? -1;
    if (code >= 0) changes.chip = { key, code };
    for (const plot of PLOTS) {
      const [x0, x1, y0, y1] = (said.get(`view.${plot}`) ?? "").split(",").map(Number);
      changes[`view.${plot}`] = x0 < x1 && y0 < y1 ? { x: [x0, x1], y: [y0, y1] } : null;
    }
    for (const { name } of data.objectives) {
      const value = Number(said.get(TARGET + name) ?? NaN);
      if (Number.isFinite(value) && data.byKey.has(`metric:${name}`)) changes.targets = { ...changes.targets, [name]: value };
    }
    this.set(changes);
  }
}
