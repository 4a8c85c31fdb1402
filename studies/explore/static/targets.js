// Targets: sliders, how many checkpoints measurably meet them, and the search of the map.

import { copyButton, el, fill, number, percent } from "./text.js";
import { ask } from "./data.js";

const NOTCHES = 400;

export class Targets {
  constructor(root, state, onAnswers) {
    this.state = state;
    this.data = state.data;
    this.onAnswers = onAnswers;
    this.makes = this.data.server && this.data.writes;
    this.sliders = new Map();
    this.count = el("p", { id: "meeting", "aria-live": "polite" });
    this.found = el("div", { id: "answers" });
    this.command = el("code");
    const rows = this.data.objectives.map((objective) => this.slider(objective)).filter(Boolean);
    const clear = el("button", { type: "button", onclick: () => state.set({ targets: {} }) }, "Clear");
    const go = el("button", { type: "button", className: "main", onclick: () => this.search() }, "Search the map");
    this.go = go;
    const copy = el("p", { className: "path" }, this.command, copyButton("copy", () => this.command.textContent));
    fill(root, ...rows, this.count, el("p", { className: "row" }, this.data.server ? go : null, clear), copy, this.found);
    state.on((names) => {
      if (names.has("targets") || names.has("filter")) this.draw(names);
    });
  }

  slider({ name, maximize }) {
    const column = this.data.byKey.get(`metric:${name}`);
    if (!column) return null;
    const finite = column.values.filter(Number.isFinite).sort();
    // Notches are measured values, so that each takes as many checkpoints from those that meet: a metric that crowds
    // at a bound is as easy to set as any other.
    const worst = maximize ? 0 : finite.length - 1;
    const at = (notch) => finite[Math.round(Math.abs((notch / NOTCHES) * (finite.length - 1) - (maximize ? 0 : finite.length - 1)))];
    const range = el("input", { type: "range", min: 0, max: NOTCHES, step: 1, value: 0, "aria-label": `target for ${name}` });
    const box = el("input", { type: "number", step: "any", "aria-label": `target for ${name} as a number` });
    const off = el("button", { type: "button", className: "quiet", title: "no target", onclick: () => this.want(name, null) }, "×");
    range.addEventListener("input", () => this.want(name, Number(range.value) === 0 ? null : Number(at(Number(range.value)).toPrecision(6))));
    box.addEventListener("change", () => this.want(name, box.value === "" || !Number.isFinite(Number(box.value)) ? null : Number(box.value)));
    const notch = (value) => {
      let n = 0;
      for (const v of finite) if (maximize ? v < value : v > value) n++;
      return Math.round((n / Math.max(finite.length - 1, 1)) * NOTCHES);
    };
    this.sliders.set(name, { range, box, notch, worst: finite[worst] });
    return el("div", { className: "target" }, el("label", { title: name }, `${maximize ? "≥" : "≤"} ${name}`), range, box, off);
  }

  want(name, value) {
    const targets = { ...this.state.get("targets") };
    if (value === null) delete targets[name];
    else targets[name] = value;
    this.state.set({ targets });
  }

  draw(names) {
    const { state, data } = this;
    const targets = state.get("targets");
    for (const [name, { range, box, notch }] of this.sliders) {
      const value = targets[name];
      box.value = value === undefined ? "" : value;
      if (document.activeElement !== range || value === undefined) range.value = value === undefined ? 0 : notch(value);
      range.setAttribute("aria-valuetext", value === undefined ? "no target" : number(value));
    }
    let [n, of] = [0, 0];
    for (let i = 0; i < data.n; i++) {
      if (state.hidden?.[i]) continue;
      of++;
      if (state.meeting?.[i]) n++;
    }
    const all = state.hidden ? "checkpoints of the filtered runs" : "checkpoints";
    this.count.textContent = state.meeting ? `${n} of ${of} ${all} measurably meet` : `No target: all ${of} ${all}`;
    const spelled = Object.entries(targets).map(([name, v]) => ` --target-${name.replace(/[^\p{L}\p{N}_.]+|_/gu, "-").replace(/^-+|-+$/g, "")} ${v}`);
    this.command.textContent = `epsopt search${spelled.join("")}`;
    if (names.has("targets")) {
      this.answered = null;
      this.failed = null;
      this.onAnswers(null);
      fill(this.found);
    }
  }

  async search() {
    const query = Object.fromEntries(Object.entries(this.state.get("targets")).map(([name, v]) => [`target.${name}`, v]));
    const asked = JSON.stringify(query);
    this.go.disabled = true;
    fill(this.found, el("p", { className: "loading" }, "searching the map …"));
    try {
      const found = await ask("search", query);
      const now = Object.fromEntries(Object.entries(this.state.get("targets")).map(([name, v]) => [`target.${name}`, v]));
      if (JSON.stringify(now) !== asked) return; // the sliders moved on meanwhile
      this.asked = query;
      this.answered = found;
      this.onAnswers(found);
      fill(this.found, ...this.answers(found));
    } catch (error) {
      fill(this.found, el("p", { className: "error" }, error.message));
    } finally {
      this.go.disabled = false;
    }
  }

  /** Decode an answer to real weights, measured where the project has a hook. */
  async make(i) {
    const found = this.answered;
    this.making = i + 1;
    this.failed = null;
    fill(this.found, ...this.answers(found));
    try {
      found.answers[i].made = await ask("make", { ...this.asked, answer: i + 1 }, "POST");
    } catch (error) {
      this.failed = error.message;
    } finally {
      this.making = null;
    }
    if (this.answered !== found || !this.found.hasChildNodes()) return; // the sliders moved on meanwhile
    this.onAnswers(found);
    fill(this.found, ...this.answers(found));
  }

  made({ measured, predicted, refused, file }, names) {
    const cells = names.map((name) => el("td", {}, number(measured ? measured[name] : predicted[name][0])));
    return el("tr", { className: "made" }, el("td"), ...cells, el("td"), el("td", { className: "text" }, madeWord(measured, refused), " ", copyButton("copy path", () => file)));
  }

  open(row) {
    return el("button", { type: "button", className: "link", onclick: () => this.state.set({ chosen: row }) }, this.data.label(row));
  }

  maker(answer, i) {
    if (!this.makes || answer.made) return null;
    return el("button", { type: "button", disabled: Boolean(this.making), onclick: () => this.make(i) }, this.making === i + 1 ? "making …" : "Make it");
  }

  /** Answers as rows of one table: of two metrics, more do not fit beside each other. */
  rows(found, names) {
    const rows = found.answers.flatMap((answer, i) => {
      const cells = names.map((name) => {
        const [point, low, high] = answer.predicted[name];
        return el("td", {}, number(point), el("div", { className: "quiet" }, `[${number(low)}, ${number(high)}]`));
      });
      const make = this.maker(answer, i);
      const row = el("tr", {}, el("th", { scope: "row" }, String(i + 1)), ...cells, el("td", {}, probability(answer)), el("td", { className: "text" }, this.open(answer.nearest[0].row), make ? el("div", {}, make) : null));
      return answer.made ? [row, this.made(answer.made, names)] : [row];
    });
    const heads = ["#", ...names, "P", "nearest"];
    return [el("div", { className: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((h) => el("th", { scope: "col" }, h)))), el("tbody", {}, ...rows)))];
  }

  /** Answers below each other, with a row for each metric. */
  cards(found, names) {
    return found.answers.map((answer, i) => {
      const { made } = answer;
      const value = (name) => number(made.measured ? made.measured[name] : made.predicted[name][0]);
      const heads = ["metric", "predicted", `${percent(found.level)} interval`, ...(made ? [madeWord(made.measured, made.refused)] : [])];
      const rows = names.map((name) => {
        const [point, low, high] = answer.predicted[name];
        return el("tr", {}, el("th", { scope: "row", className: "text" }, name), el("td", {}, number(point)), el("td", {}, `[${number(low)}, ${number(high)}]`), made ? el("td", {}, value(name)) : null);
      });
      return el("article", { className: made ? "answer made" : "answer" },
        el("p", { className: "row" }, el("strong", {}, `${i + 1}`), `P ${probability(answer)}, nearest `, this.open(answer.nearest[0].row), this.maker(answer, i), made ? copyButton("copy path", () => made.file) : null),
        el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((h, k) => el("th", { scope: "col", className: k ? "" : "text" }, h)))), el("tbody", {}, ...rows)));
    });
  }

  answers(found) {
    const { data } = this;
    const names = data.objectives.map((o) => o.name).filter((name) => data.metrics.includes(name));
    const say = [];
    if (found.targets.length && !found.targets_met) say.push(el("p", { className: "error" }, "No answer is more likely than not to meet all targets: these come nearest."));
    const climbed = found.answers.filter((answer) => answer.way.length > 1).length;
    return [
      ...say,
      ...(names.length > 2 ? this.cards(found, names) : this.rows(found, names)),
      this.failed ? el("p", { className: "error" }, this.failed) : null,
      this.makes ? el("p", { className: "quiet" }, `Make it decodes an answer to real weights${data.evaluates ? ", measures them with the project's hook" : ""} and saves them among the runs: 'epsopt ingest' adds them.`) : null,
      el("p", { className: "quiet" }, `Predicted, not evaluated, with ${percent(found.level)} intervals. P is the probability that all targets are met, the product over single targets. Hollow on the plots.${climbed ? ` Dotted: the way that the search climbed to ${climbed === found.answers.length ? "each" : `${climbed} of them; the others are places of real checkpoints`}.` : ""}`),
    ];
  }
}

function madeWord(measured, refused) {
  return measured ? "measured" : refused ? "decoded" : "decoded, predicted";
}

function probability(answer) {
  return answer.probability === null ? "–" : answer.probability.toFixed(2);
}
