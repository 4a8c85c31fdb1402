// The page's data, from the server or from the file itself, and questions to the server.

const TYPES = { Float64Array, Float32Array, Int32Array };

export class Data {
  constructor(about, buffer) {
    Object.assign(this, about);
    this.byKey = new Map();
    for (const column of about.columns) {
      column.values = new TYPES[column.type](buffer, column.offset, column.length);
      this.byKey.set(column.key, column);
    }
    this.id = this.values("id");
    this.run = this.values("run");
    this.rowOf = new Map();
    for (let i = this.n - 1; i >= 0; i--) this.rowOf.set(String(this.id[i]), i);
    for (let i = 0; i < this.n; i++) this.rowOf.set(this.handle(i), i);
    this.rows = about.runs.map(() => []);
    for (let i = 0; i < this.n; i++) this.rows[this.run[i]].push(i);
    for (const name of this.metrics) this.derive(name);
    this.files = null;
  }

  /** What an address calls a checkpoint: its id, and its run where several runs share the file. */
  handle(row) {
    const id = String(this.id[row]);
    return this.rowOf.get(id) === row ? id : `${id}@${this.runs[this.run[row]].name}`;
  }

  values(key) {
    return this.byKey.get(key)?.values;
  }

  /** Prediction error and interval width: differences of columns that are there. */
  derive(name) {
    const [point, low, high] = ["predicted", "low", "high"].map((kind) => this.values(`${kind}:${name}`));
    const measured = this.values(`metric:${name}`);
    const rows = "checkpoint";
    if (measured) {
      const values = measured.map((v, i) => Math.abs(point[i] - v));
      this.byKey.set(`error:${name}`, { key: `error:${name}`, title: name, group: "prediction error", rows, values });
    }
    const values = point.map((_, i) => high[i] - low[i]);
    this.byKey.set(`width:${name}`, { key: `width:${name}`, title: name, group: "interval width", rows, values });
  }

  /** One value a checkpoint, whatever the column's rows are. */
  perCheckpoint(key) {
    const column = this.byKey.get(key);
    if (column.rows === "checkpoint") return column.values;
    column.spread ??= Float64Array.from(this.run, (run) => column.values[run]);
    return column.spread;
  }

  label(row) {
    const epoch = this.values("epoch")[row];
    return Number.isNaN(epoch) ? this.runs[this.run[row]].label : `${this.runs[this.run[row]].label}:${epoch}`;
  }

  path(row) {
    return this.files === null ? null : `${this.runs[this.run[row]].folder}/${this.files[row]}`;
  }

  /** A hyperparameter of a run as text, or as a number. */
  ofRun(column, run) {
    const value = column.values[run];
    if (column.categories) return value < 0 ? null : column.categories[value];
    return Number.isNaN(value) ? null : value;
  }

  columnsOf(group) {
    return [...this.byKey.values()].filter((column) => column.group === group);
  }
}

export async function loadData() {
  const embedded = document.getElementById("about");
  if (embedded !== null) {
    const bytes = Uint8Array.from(atob(document.getElementById("data").textContent), (c) => c.charCodeAt(0));
    const data = new Data(JSON.parse(embedded.textContent), bytes.buffer);
    data.files = JSON.parse(document.getElementById("files").textContent);
    return data;
  }
  const [about, buffer] = await Promise.all([ask("about.json"), fetch("data.bin").then((r) => r.arrayBuffer())]);
  return new Data(about, buffer);
}

/** File names are many and not needed for the first view. */
export async function loadFiles(data) {
  if (data.files === null) data.files = await ask("files.json");
}

/** Ask the server; its sentence is the error's message. */
export async function ask(path, query = {}, method = "GET") {
  const text = new URLSearchParams(query).toString();
  let response;
  try {
    response = await fetch(text ? `${path}?${text}` : path, { method });
  } catch {
    throw new Error("the server does not answer: is 'epsopt explore' still running?");
  }
  const type = response.headers.get("Content-Type") ?? "";
  const answer = type.startsWith("application/json") ? await response.json() : { error: await response.text() };
  if (!response.ok) throw new Error(answer.error);
  return answer;
}
