// The way from one checkpoint to another: a marker on the map, and a band for each metric.

import { copyButton, el, fill, number, percent } from "./text.js";
import { ask } from "./data.js";

const [WIDTH, HEIGHT] = [300, 84];

export class Way {
  constructor(root, state, onWay) {
    this.root = root;
    this.state = state;
    this.data = state.data;
    this.onWay = onWay;
    this.found = null;
    this.at = 0;
    this.asked = 0;
    state.on((names) => {
      if (names.has("from") || names.has("to")) this.draw();
    });
  }

  name(row) {
    return row < 0 ? "not chosen" : this.data.label(row);
  }

  async draw() {
    const { state, root } = this;
    const [from, to] = [state.get("from"), state.get("to")];
    const asked = ++this.asked;
    this.found = null;
    this.onWay(null);
    const ends = el("p", {}, "from ", el("strong", {}, this.name(from)), " to ", el("strong", {}, this.name(to)));
    const swap = el("button", { type: "button", onclick: () => state.set({ from: to, to: from }) }, "Swap");
    const clear = el("button", { type: "button", onclick: () => state.set({ from: -1, to: -1 }) }, "Clear");
    const hint = el("p", { className: "quiet" }, "Choose two checkpoints with the buttons of their details.");
    if (from < 0 || to < 0) return fill(root, ends, hint, from >= 0 || to >= 0 ? clear : null);
    root.closest("details").open = true;
    const place = el("div", {}, el("p", { className: "loading" }, "predicting the way …"));
    fill(root, ends, el("p", { className: "row" }, swap, clear), place);
    try {
      const found = await ask("way", { from, to });
      if (asked !== this.asked) return;
      this.found = found;
      fill(place, ...this.show(found));
      this.move(0);
    } catch (error) {
      if (asked === this.asked) fill(place, el("p", { className: "error" }, error.message));
    }
  }

  show(found) {
    const { data, state } = this;
    this.slider = el("input", { type: "range", id: "share", min: 0, max: found.points.length - 1, step: 1, value: 0, "aria-label": "share of the way" });
    this.slider.addEventListener("input", () => this.move(Number(this.slider.value)));
    this.said = el("p", { id: "share-said", "aria-live": "polite" });
    this.bands = data.metrics.map((name) => ({ name, canvas: el("canvas", { className: "band", role: "img" }), value: el("span") }));
    const rows = this.bands.map(({ name, canvas, value }) => el("div", { className: "band-row" }, el("div", {}, el("strong", {}, name), " ", value), canvas));
    const beyond = found.points.some((p) => !p.within_data);
    const ends = [state.get("from"), state.get("to")].map((row) => data.label(row));
    const command = `epsopt interpolate ${ends.join(" ")} --evaluate`;
    const merge = found.not_mergeable === null
      ? el("p", { className: "path" }, "Both are of one lineage. This merges their weights and measures each step: ", el("code", {}, command), copyButton("copy", () => command))
      : el("p", { className: "quiet" }, `Predictions only: ${found.not_mergeable}.`);
    return [this.slider, this.said, ...rows,
      el("p", { className: "quiet" }, `Line: predicted on the straight way over the map; band: ${percent(found.level)} interval; dots: measured.${beyond ? " Shaded: beyond the data, where intervals mean little." : ""}`),
      merge];
  }

  move(i) {
    const point = this.found.points[i];
    this.at = i;
    this.said.textContent = `${Math.round(100 * point.share)} % of the way${point.within_data ? "" : ", beyond the data"}`;
    for (const band of this.bands) {
      const [value, low, high] = point.predicted[band.name];
      const text = `${number(value)} [${number(low)}, ${number(high)}]`;
      band.value.textContent = text;
      band.canvas.setAttribute("aria-label", `${band.name}: predicted ${text}`);
      this.band(band);
    }
    this.onWay(this.found, i);
  }

  redraw() {
    if (this.found && this.bands) for (const band of this.bands) this.band(band);
  }

  band({ name, canvas }) {
    const { data, found } = this;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = WIDTH * ratio;
    canvas.height = HEIGHT * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const colour = (variable) => getComputedStyle(canvas).getPropertyValue(variable).trim();
    const measured = found.rows.map((row) => data.values(`metric:${name}`)?.[row] ?? NaN);
    const values = [...found.points.flatMap((p) => p.predicted[name]), ...measured].filter(Number.isFinite);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const [left, right, top, bottom] = [50, WIDTH - 8, 8, HEIGHT - 10];
    const x = (share) => left + share * (right - left);
    const y = (v) => bottom - ((v - low) / (high - low || 1)) * (bottom - top);
    const half = 0.5 / (found.points.length - 1);
    context.fillStyle = colour("--shade");
    for (const p of found.points) if (!p.within_data) context.fillRect(x(Math.max(p.share - half, 0)), top, x(Math.min(p.share + half, 1)) - x(Math.max(p.share - half, 0)), bottom - top);
    context.fillStyle = colour("--band");
    context.beginPath();
    found.points.forEach((p, i) => context[i ? "lineTo" : "moveTo"](x(p.share), y(p.predicted[name][2])));
    [...found.points].reverse().forEach((p) => context.lineTo(x(p.share), y(p.predicted[name][1])));
    context.fill();
    context.strokeStyle = colour("--answer");
    context.lineWidth = 1.5;
    context.beginPath();
    found.points.forEach((p, i) => context[i ? "lineTo" : "moveTo"](x(p.share), y(p.predicted[name][0])));
    context.stroke();
    context.fillStyle = colour("--ink");
    measured.forEach((v, i) => {
      if (Number.isNaN(v)) return;
      context.beginPath();
      context.arc(x(i), y(v), 3.5, 0, 2 * Math.PI);
      context.fill();
    });
    context.strokeStyle = colour("--ink");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x(found.points[this.at].share), top - 4);
    context.lineTo(x(found.points[this.at].share), bottom + 4);
    context.stroke();
    context.fillStyle = colour("--quiet");
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.fillText(number(Number(high.toPrecision(3))), left - 5, top + 3);
    context.fillText(number(Number(low.toPrecision(3))), left - 5, bottom - 3);
  }
}
