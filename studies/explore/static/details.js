// One checkpoint: measured beside predicted, what sets it apart from its neighbours, and how to load it.

import { code, copyButton, counted, el, fill, literal, number, percent, shown } from "./text.js";
import { ask, loadFiles } from "./data.js";

const MOST_METRICS = 3; // beside each neighbour

export class Details {
  constructor(root, state) {
    this.root = root;
    this.state = state;
    this.data = state.data;
    this.asked = 0;
    state.on((names) => {
      if (["chosen", "from", "to"].some((n) => names.has(n))) this.draw();
    });
  }

  async draw() {
    const { state, data, root } = this;
    const row = state.get("chosen");
    const asked = ++this.asked;
    if (row < 0) {
      fill(root, el("p", { className: "quiet" }, "Click a point, or a run's details, to see what was measured and predicted, its neighbours and how to load it."));
      return;
    }
    const place = el("div", { className: "loading" }, "reading the neighbours …");
    const path = el("div");
    fill(root, this.title(row), this.ends(row), this.metrics(row), path, place, this.embedding(row));
    try {
      await loadFiles(data);
      if (asked === this.asked) fill(path, ...this.load(row));
      const found = data.server ? await ask("neighbours", { row }) : (data.neighbours?.[row] ?? null);
      if (asked !== this.asked) return;
      if (found === null) fill(place, el("p", { className: "quiet" }, "This file holds no neighbours: there are too many checkpoints. 'epsopt explore' shows them."));
      else fill(place, ...this.neighbours(row, found));
      place.className = "";
    } catch (error) {
      if (asked === this.asked) fill(place, el("p", { className: "error" }, error.message));
    }
  }

  title(row) {
    const { data } = this;
    const epoch = data.values("epoch")[row];
    const [kinds, lineages] = ["kind", "lineage"].map((key) => data.byKey.get(key));
    const facts = [
      Number.isNaN(epoch) ? null : `epoch ${number(epoch)}`,
      kinds.categories[kinds.values[row]],
      lineages.categories[lineages.values[row]],
      data.values("front")[row] ? "on the measured front" : null,
    ].filter(Boolean);
    const merged = kinds.values[row] === 1;
    const parents = data.links.filter(([first]) => (merged ? first === row : data.run[first] === data.run[row])).map(([, parent]) => parent);
    const words = merged ? "merged from " : "started from ";
    const from = parents.length ? el("p", {}, words, ...parents.flatMap((p, i) => (i ? [" and ", this.link(p)] : [this.link(p)]))) : null;
    return el("div", {}, el("h3", { title: data.runs[data.run[row]].name }, data.label(row)), el("p", { className: "quiet" }, facts.join(" · ")), from);
  }

  link(row) {
    return el("button", { type: "button", className: "link", onclick: () => this.state.set({ chosen: row }) }, this.data.label(row));
  }

  ends(row) {
    const { state, data } = this;
    if (!data.server) return null;
    const end = (name, text) =>
      el("button", { type: "button", "aria-pressed": String(state.get(name) === row), onclick: () => state.set({ [name]: row }) }, text);
    return el("p", { className: "row" }, end("from", "Interpolate from here"), end("to", "Interpolate to here"));
  }

  metrics(row) {
    const { data } = this;
    const measured = data.columnsOf("measured").map((c) => c.title);
    const value = (kind, name) => data.values(`${kind}:${name}`)?.[row] ?? NaN;
    const known = (name) => !Number.isNaN(value("metric", name)) || !Number.isNaN(value("predicted", name));
    const names = [...new Set([...data.objectives.map((o) => o.name), ...data.metrics, ...measured])].filter(known);
    const rows = names.map((name) => {
      const [low, high] = [value("low", name), value("high", name)];
      const interval = Number.isNaN(low) ? "–" : `[${number(low)}, ${number(high)}]`;
      const got = value("metric", name);
      const out = Number.isNaN(low) || Number.isNaN(got) ? false : got < low - 1e-6 * Math.abs(low) || got > high + 1e-6 * Math.abs(high);
      return el("tr", {}, el("th", { scope: "row", className: "text" }, name), el("td", {}, number(got)), el("td", {}, number(value("predicted", name))),
        el("td", { className: out ? "out" : "", title: out ? "the measurement lies outside" : "" }, interval + (out ? " !" : "")));
    });
    const heads = ["metric", "measured", "predicted", `${percent(data.level)} interval`];
    return el("div", { className: "scroll" }, el("table", { id: "measured" },
      el("thead", {}, el("tr", {}, ...heads.map((h, i) => el("th", { scope: "col", className: i ? "" : "text" }, h)))), el("tbody", {}, ...rows)));
  }

  load(row) {
    const path = this.data.path(row);
    const lines = ["from epsopt.zoo import load_weights", `weights = load_weights(${literal(path)})`, 'print({name: tuple(w.shape) for name, w in weights.items()})'];
    const text = lines.join("\n");
    return [
      el("h4", {}, "File"),
      el("p", { className: "path" }, el("code", { id: "path" }, path), copyButton("copy path", () => path)),
      code(text, "python"),
      copyButton("copy Python", () => text),
    ];
  }

  neighbours(row, found) {
    const { data } = this;
    const step = found.usual_step;
    const unit = step ? "distance, in usual steps of this run" : "latent distance (this run has no step to measure in)";
    // More do not fit: those on the axes first.
    const onAxis = ({ name }) => ["across", "up"].some((axis) => this.state.get(axis) === `metric:${name}`);
    const metrics = [...data.objectives].sort((a, b) => onAxis(b) - onAxis(a)).slice(0, MOST_METRICS);
    const rows = found.nearest.map(({ row: other, distance }) =>
      el("tr", {}, el("th", { scope: "row", className: "text" }, this.link(other)), el("td", {}, number(step ? distance / step : distance)),
        ...metrics.map(({ name }) => el("td", {}, number(data.values(`metric:${name}`)?.[other])))));
    const heads = ["neighbour", step ? "steps away" : "distance", ...metrics.map((o) => o.name)];
    return [
      el("h4", { title: unit }, counted(found.nearest.length, "nearest checkpoint")),
      el("div", { className: "scroll" }, el("table", { id: "neighbours" },
        el("thead", {}, el("tr", {}, ...heads.map((h, i) => el("th", { scope: "col", className: i ? "" : "text", title: i === 1 ? unit : "" }, h)))), el("tbody", {}, ...rows))),
      el("p", { className: "quiet" }, step ? "A step is this run's usual distance between consecutive checkpoints." : ""),
      ...this.differences(row, found),
    ];
  }

  /** Anchor embeddings, on demand: real ones filled, predicted ones hollow, a line between those of one anchor. */
  embedding(row) {
    const { data } = this;
    if (!data.server || !data.embeddings) return null;
    const place = el("div", { id: "embedding" });
    const press = async () => {
      fill(place, el("p", { className: "loading" }, "predicting embeddings …"));
      try {
        const found = await ask("embedding", { row });
        const canvas = el("canvas", { className: "embedding", role: "img", "aria-label": "anchor embeddings" });
        const cosine = found.cosine === null ? "no real ones are known" : `mean cosine ${number(found.cosine)}`;
        fill(place, canvas, el("p", { className: "quiet" }, `${found.real ? "Real filled, predicted hollow" : "Predicted"}; principal components (${percent(found.explained)} of the variance); ${cosine}.`));
        drawEmbedding(canvas, found);
      } catch (error) {
        fill(place, el("p", { className: "error" }, error.message));
      }
    };
    return el("div", {}, el("h4", {}, "Anchor embeddings"), el("button", { type: "button", onclick: press }, "Preview embeddings"), place);
  }

  /** Hyperparameters in which its run differs from every one of the nearest other runs; then all others. */
  differences(row, found) {
    const { data } = this;
    const own = data.run[row];
    const runs = found.other_runs.map((n) => data.run[n.row]);
    if (runs.length === 0) return [el("p", { className: "quiet" }, "There is no other run to compare hyperparameters with.")];
    const columns = data.columnsOf("hyperparameters");
    const rows = columns.map((column) => {
      const mine = data.ofRun(column, own);
      const theirs = runs.map((run) => data.ofRun(column, run));
      return { column, mine, theirs, apart: apart(mine, theirs, column.logarithmic) };
    });
    rows.sort((a, b) => b.apart - a.apart);
    const differing = rows.filter((r) => r.apart > 0);
    const text = (v) => (typeof v === "number" ? number(v) : (v ?? "–"));
    const range = (values) => {
      const kept = values.filter((v) => v !== null);
      if (kept.length && kept.every((v) => typeof v === "number")) {
        const [low, high] = [Math.min(...kept), Math.max(...kept)];
        return low === high ? number(low) : `${number(low)} to ${number(high)}`;
      }
      return [...new Set(values.map(text))].map(shown).join(", ");
    };
    const table = (some, id) => el("div", { className: "scroll" }, el("table", { id },
      el("thead", {}, el("tr", {}, el("th", { className: "text" }, "hyperparameter"), el("th", {}, "here"), el("th", {}, `nearest ${counted(runs.length, "other run")}`))),
      el("tbody", {}, ...some.map((r) => el("tr", {}, el("th", { scope: "row", className: "text" }, r.column.title), el("td", {}, text(r.mine)), el("td", {}, range(r.theirs)))))));
    const out = [el("h4", {}, "What sets it apart from its neighbours")];
    if (differing.length) out.push(table(differing, "apart"));
    else out.push(el("p", { className: "quiet" }, "Each of its hyperparameters lies among those of the nearest other runs."));
    const alike = rows.filter((r) => r.apart === 0);
    if (alike.length) out.push(el("details", {}, el("summary", {}, counted(alike.length, "other hyperparameter")), table(alike, "alike")));
    return out;
  }
}

const HARDLY = 0.01; // of the others' range: so little further out is among them

/** How far a value lies outside those of others: 0 among them, more the further out. */
function apart(mine, theirs, logarithmic) {
  const numbers = theirs.filter((v) => typeof v === "number");
  if (typeof mine === "number" && numbers.length > 0) {
    const to = logarithmic ? Math.log : (v) => v;
    const [low, high] = [Math.min(...numbers.map(to)), Math.max(...numbers.map(to))];
    const out = Math.max(low - to(mine), to(mine) - high);
    return out > HARDLY * (high - low) ? 1 + out / (high - low || Math.abs(out)) : 0;
  }
  return theirs.includes(mine) ? 0 : 1;
}

function drawEmbedding(canvas, { predicted, real }) {
  const [width, height, edge] = [300, 220, 10];
  const ratio = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: width * ratio, height: height * ratio });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const colour = (name) => getComputedStyle(canvas).getPropertyValue(name).trim();
  const points = [...predicted, ...(real ?? [])];
  const ends = [0, 1].map((k) => [Math.min(...points.map((p) => p[k])), Math.max(...points.map((p) => p[k]))]);
  // One unit for both axes: distances are what embeddings are about.
  const unit = Math.min((width - 2 * edge) / (ends[0][1] - ends[0][0] || 1), (height - 2 * edge) / (ends[1][1] - ends[1][0] || 1));
  const at = (p) => [width / 2 + unit * (p[0] - (ends[0][0] + ends[0][1]) / 2), height / 2 - unit * (p[1] - (ends[1][0] + ends[1][1]) / 2)];
  const disc = (p, filled) => {
    context.beginPath();
    context.arc(...at(p), 3, 0, 2 * Math.PI);
    if (filled) context.fill();
    else context.stroke();
  };
  context.strokeStyle = colour("--faint");
  real?.forEach((p, i) => {
    context.beginPath();
    context.moveTo(...at(p));
    context.lineTo(...at(predicted[i]));
    context.stroke();
  });
  context.fillStyle = colour("--ink");
  real?.forEach((p) => disc(p, true));
  context.strokeStyle = colour("--answer");
  predicted.forEach((p) => disc(p, false));
}
