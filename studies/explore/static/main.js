// Puts the page together: state in the middle, plots, table and panels around it.

import { counted, el, fill, number, shown } from "./text.js";
import { loadData } from "./data.js";
import { colouring } from "./colours.js";
import { LINEAR, scaleOf } from "./scales.js";
import { State } from "./state.js";
import { Scatter, arrows, diamond } from "./scatter.js";
import { RunTable } from "./table.js";
import { Details } from "./details.js";
import { Targets } from "./targets.js";
import { Way } from "./way.js";
import { Proposals } from "./proposals.js";
import { showTrust } from "./trust.js";

const GROUPS = ["measured", "predicted", "training", "hyperparameters", "bookkeeping", "prediction error", "interval width"];
const WORDS = { predicted: ", predicted", "prediction error": ", prediction error", "interval width": ", interval width" }; // a closed list shows no group
const MOST_PATHS = 300; // more lines than that are a blot
const by = (id) => document.getElementById(id);
const darkness = window.matchMedia("(prefers-color-scheme: dark)");

class Page {
  constructor(data) {
    this.data = data;
    this.state = new State(data);
    this.answers = null;
    this.way = null;
    this.proposed = null;
    document.title = `${data.project}: explore`;
    fill(by("title"), data.project, el("small", {}, ` ${counted(data.n, "checkpoint")} of ${counted(data.runs.length, "run")}, read ${data.read.replace("T", " ").slice(0, 16)}${data.server ? "" : ", exported: nothing is asked of a server"}`));
    showTrust(by("trust"), data);
    this.map = this.plot("map", "Map of checkpoints", "x", "y");
    this.front = this.plot("front", "Measured metrics", null, null);
    this.choices();
    this.table = new RunTable(by("table"), this.state, (row) => this.state.set({ chosen: row }));
    this.details = new Details(by("details"), this.state);
    this.targets = new Targets(by("targets"), this.state, (found) => ((this.answers = found), this.overlays()));
    if (data.server) {
      this.between = new Way(by("way"), this.state, (found, at) => ((this.way = found === null ? null : { found, at }), this.overlays()));
      this.proposals = new Proposals(by("proposals"), this.state, (made) => ((this.proposed = made), this.overlays()));
    } else {
      const text = "This file only shows what was measured and predicted when it was written: 'epsopt explore' answers questions.";
      for (const id of ["way", "proposals"]) fill(by(id), el("p", { className: "quiet" }, text));
    }
    this.state.on((names) => this.changed(names));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.state.set({ box: null, chip: null });
    });
    darkness.addEventListener("change", () => this.changed(new Set(["colour"])));
    window.addEventListener("hashchange", () => this.state.restore(location.hash, this.defaults()));
  }

  defaults() {
    const { data } = this;
    const named = data.objectives.map((o) => `metric:${o.name}`).filter((key) => data.byKey.has(key));
    const [across, up] = named.length > 1 ? named : ["epoch", named[0] ?? "y"];
    return { colour: named[0] ?? "epoch", across, up, filter: "", run: -1, chosen: -1, box: null, chip: null, targets: {}, from: -1, to: -1, "view.map": null, "view.front": null };
  }

  choices() {
    const { data, state } = this;
    const options = (groups) => groups.map((group) => [group, data.columnsOf(group)]).filter(([, some]) => some.length)
      .map(([group, some]) => el("optgroup", { label: group }, ...some.map((c) => el("option", { value: c.key }, `${c.title}${WORDS[c.group] ?? ""}`))));
    by("colour").append(...options(GROUPS));
    const numbers = (group) => data.columnsOf(group).filter((c) => !c.categories);
    for (const id of ["across", "up"]) {
      by(id).append(...GROUPS.map((group) => [group, numbers(group)]).filter(([, some]) => some.length)
        .map(([group, some]) => el("optgroup", { label: group }, ...some.map((c) => el("option", { value: c.key }, `${c.title}${WORDS[c.group] ?? ""}`)))));
    }
    const goes = { colour: { chip: null }, across: { "view.front": null }, up: { "view.front": null }, paths: {} }; // with what was
    for (const id of Object.keys(goes)) by(id).addEventListener("change", (event) => state.set({ [id]: event.target.value, ...goes[id] }));
    by("filter").addEventListener("input", (event) => state.set({ filter: event.target.value }));
  }

  plot(id, name, across, up) {
    const said = by(`${id}-said`);
    const keys = () => (across ? [across, up] : [this.state.get("across"), this.state.get("up")]);
    const plot = new Scatter(by(id), name, {
      box: (ends) => this.state.set({ box: { across: keys()[0], up: keys()[1], ends }, chip: null }),
      pick: (row) => this.state.set({ chosen: row }),
      moved: (view) => this.state.set({ [`view.${id}`]: view }),
      describe: (row) => this.describe(row),
      under: (context, scatter) => this.under(context, scatter, id === "map"),
      over: (context, scatter) => this.over(context, scatter, id === "map"),
      outside: (text, some) => {
        if (said.dataset.text === text) return;
        said.dataset.text = text;
        fill(said, text, some ? el("button", { type: "button", className: "link", onclick: () => plot.showAll() }, "show all") : null);
      },
    });
    return plot;
  }

  axis(key) {
    const column = this.data.byKey.get(key);
    const values = this.data.perCheckpoint(key);
    const words = { predicted: "predicted ", "prediction error": "prediction error of ", "interval width": "interval width of " };
    const scale = scaleOf(column);
    const objective = ["measured", "predicted"].includes(column.group) && this.data.objectives.find((o) => o.name === column.title);
    const better = objective ? ` (${objective.maximize ? "higher" : "lower"} is better)` : "";
    return { key, values, scale, title: `${words[column.group] ?? ""}${column.title}${better}${scale.words ? `, scaled as ${scale.words}` : ""}` };
  }

  mapAxis(key, i) {
    const { title, ends } = this.data.axes[i];
    return { key, values: this.data.values(key), scale: LINEAR, title, ends };
  }

  changed(names) {
    const { state, data } = this;
    for (const id of ["colour", "across", "up", "paths", "filter"]) if (by(id).value !== state.get(id)) by(id).value = state.get(id);
    if (this.map.window === null) this.map.setAxes(this.mapAxis("x", 0), this.mapAxis("y", 1));
    if (names.has("across") || names.has("up")) this.front.setAxes(this.axis(state.get("across")), this.axis(state.get("up")));
    const moved = ["map", "front"].filter((id) => names.has(`view.${id}`) && this[id].look(state.get(`view.${id}`)));
    const marked = ["colour", "filter", "box", "chip", "targets", "across", "up"].some((n) => names.has(n));
    if (marked || moved.length) {
      if (names.has("colour")) this.colours = colouring(data, state.get("colour"), darkness.matches);
      const dimmed = this.dimmed();
      for (const plot of [this.map, this.front]) {
        plot.setMarks(this.colours, state.hidden, dimmed);
        plot.draw();
      }
      this.legend();
      if (names.has("colour")) this.between?.redraw();
    } else this.overlays();
    this.counts();
    performance.mark("epsopt:drawn");
  }

  /** 1 where a checkpoint is outside of what is selected, or misses a target. */
  dimmed() {
    const { selected, meeting } = this.state;
    if (selected === null && meeting === null) return null;
    const out = new Uint8Array(this.data.n);
    for (let i = 0; i < out.length; i++) out[i] = (selected === null || selected[i]) && (meeting === null || meeting[i]) ? 0 : 1;
    return out;
  }

  overlays() {
    for (const plot of [this.map, this.front]) if (plot.window) plot.drawTop();
  }

  describe(row) {
    const { data, state } = this;
    const column = data.byKey.get(state.get("colour"));
    const value = data.perCheckpoint(column.key)[row];
    const text = column.categories ? (column.categories[value] ?? "–") : number(value);
    const axes = ["across", "up"].map((k) => data.byKey.get(state.get(k))).map((c) => `${c.title} ${number(data.perCheckpoint(c.key)[row])}`);
    return [data.label(row), ...axes, `colour: ${column.title} ${text}`];
  }

  /** Below the points: the region of the targets, halos of those that meet them, and where they lie on the map. */
  under(context, plot, map) {
    const { state, data } = this;
    const targets = state.get("targets");
    context.fillStyle = plot.style("--region");
    if (!map) {
      const along = (key, low, high) => {
        const objective = data.objectives.find((o) => `metric:${o.name}` === key);
        const value = objective && targets[objective.name];
        return value === undefined ? [low, high, false] : objective.maximize ? [value, high, true] : [low, value, true];
      };
      const [x0, y1] = plot.value(0, 0);
      const [x1, y0] = plot.value(plot.width, plot.height);
      const [left, right, some] = along(plot.across.key, x0, x1);
      const [bottom, top, other] = along(plot.up.key, y0, y1);
      if (some || other) {
        const [[ax, ay], [bx, by_]] = [plot.at(left, top), plot.at(right, bottom)];
        context.fillRect(ax, ay, bx - ax, by_ - ay);
      }
      this.stairs(context, plot);
      this.crowns(context, plot);
    }
    if (state.meeting !== null && map) {
      let n = 0;
      for (let i = 0; i < data.n && n < 4000; i++) {
        if (!state.meeting[i] || state.hidden?.[i]) continue;
        n++;
        context.beginPath();
        context.arc(plot.px(plot.xs[i]), plot.py(plot.ys[i]), 11, 0, 2 * Math.PI);
        context.fill();
      }
    }
  }

  /** Rings around the checkpoints of the measured front, whatever the axes. */
  crowns(context, plot) {
    const front = this.data.values("front");
    context.strokeStyle = plot.style("--quiet");
    context.lineWidth = 1.2;
    for (let i = 0; i < this.data.n; i++) {
      if (!front[i] || this.state.hidden?.[i]) continue;
      context.beginPath();
      context.arc(plot.px(plot.xs[i]), plot.py(plot.ys[i]), 6.5, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  /** The measured front, where both axes are its objectives and there are no others. */
  stairs(context, plot) {
    const { data } = this;
    if (data.objectives.length !== 2) return;
    const keys = data.objectives.map((o) => `metric:${o.name}`);
    if (!(keys.includes(plot.across.key) && keys.includes(plot.up.key)) || plot.across.key === plot.up.key) return;
    const front = data.values("front");
    const points = [];
    for (let i = 0; i < data.n; i++) if (front[i]) points.push([plot.px(plot.xs[i]), plot.py(plot.ys[i])]);
    points.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    const better = data.objectives.find((o) => `metric:${o.name}` === plot.across.key).maximize;
    context.strokeStyle = plot.style("--quiet");
    context.lineWidth = 1.2;
    context.beginPath();
    points.forEach(([x, y], i) => {
      if (i === 0) return context.moveTo(x, y);
      const [px, py] = points[i - 1];
      if (better) context.lineTo(px, y);
      else context.lineTo(x, py);
      context.lineTo(x, y);
    });
    context.stroke();
  }

  over(context, plot, map) {
    const { state, data } = this;
    this.paths(context, plot);
    const chosen = state.get("chosen");
    if (map) for (const [row, start] of data.links) if (this.onPath(data.run[row])) this.link(context, plot, start, row);
    if (this.way) this.drawWay(context, plot, map);
    if (this.answers) {
      for (const one of this.answers.answers) this.drawClimb(context, plot, map, one.way);
      this.drawPredicted(context, plot, map, this.answers.answers, "");
    }
    if (this.proposed && !map) this.drawPredicted(context, plot, map, this.proposed, "p");
    if (chosen >= 0) plot.ring(context, chosen, 9, plot.style("--accent"));
    for (const [name, text] of [["from", "A"], ["to", "B"]]) if (state.get(name) >= 0) this.letter(context, plot, state.get(name), text);
  }

  onPath(run) {
    const { state, data } = this;
    const how = state.get("paths");
    if (state.hidden?.[data.rows[run][0]]) return false;
    if (run === state.get("run") || (state.get("run") < 0 && how === "chosen" && state.get("chosen") >= 0 && run === data.run[state.get("chosen")])) return true;
    if (how === "all") return true;
    return how === "selected" && state.selected !== null && data.rows[run].some((row) => state.selected[row]);
  }

  paths(context, plot) {
    const { data, state } = this;
    let n = 0;
    for (let run = 0; run < data.runs.length && n < MOST_PATHS; run++) {
      if (!this.onPath(run)) continue;
      n++;
      const points = data.rows[run].map((row) => [plot.px(plot.xs[row]), plot.py(plot.ys[row])]).filter(([x, y]) => Number.isFinite(x + y));
      const alone = state.get("paths") === "chosen" || run === state.get("run");
      context.strokeStyle = context.fillStyle = plot.style(alone ? "--ink" : "--path");
      context.lineWidth = alone ? 1.6 : 1;
      if (points.length > 1) arrows(context, points);
    }
    this.cut = n >= MOST_PATHS;
  }

  link(context, plot, start, row) {
    context.save();
    context.setLineDash([4, 4]);
    context.strokeStyle = context.fillStyle = plot.style("--accent");
    context.lineWidth = 1.4;
    arrows(context, [start, row].map((r) => [plot.px(plot.xs[r]), plot.py(plot.ys[r])]));
    context.restore();
  }

  letter(context, plot, row, text) {
    const [x, y] = [plot.px(plot.xs[row]), plot.py(plot.ys[row])];
    if (!Number.isFinite(x + y)) return;
    const at = y < 36 ? y + 16 : y - 16; // below the point where there is no room above it
    context.fillStyle = plot.style("--accent");
    context.beginPath();
    context.arc(x, at, 9, 0, 2 * Math.PI);
    context.fill();
    context.fillStyle = plot.style("--paper");
    context.font = "bold 11px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(text, x, at + 0.5);
    plot.ring(context, row, 7, plot.style("--accent"));
  }

  /** Where a prediction lies on a plot, in pixels, with the ends of its intervals. */
  predicted(plot, map, { place, predicted }) {
    if (map) return { at: [plot.px(place[0]), plot.py(place[1])] };
    const named = (key) => predicted[key.slice(key.indexOf(":") + 1)];
    const fits = (key) => /^(metric|predicted):/.test(key) && named(key);
    if (!fits(plot.across.key) || !fits(plot.up.key)) return null;
    const [x, y] = [named(plot.across.key), named(plot.up.key)];
    return { at: plot.at(x[0], y[0]), low: plot.at(x[1], y[1]), high: plot.at(x[2], y[2]) };
  }

  /** Hollow diamonds with whiskers: answers of the search, and ends of proposed runs. */
  drawPredicted(context, plot, map, some, mark) {
    context.strokeStyle = plot.style("--answer");
    some.forEach((one, i) => {
      const where = this.predicted(plot, map, one);
      if (where === null) return;
      const [x, y] = where.at;
      context.lineWidth = 1.2;
      if (where.low) {
        context.beginPath();
        context.moveTo(where.low[0], y);
        context.lineTo(where.high[0], y);
        context.moveTo(x, where.low[1]);
        context.lineTo(x, where.high[1]);
        context.stroke();
      }
      context.lineWidth = 2;
      context.fillStyle = plot.style("--paper");
      diamond(context, x, y, mark ? 11 : 8);
      context.fill();
      context.stroke();
      context.fillStyle = plot.style("--answer");
      context.font = `bold ${mark ? 9 : 10}px system-ui, sans-serif`;
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.fillText(mark + (i + 1), x, y + 0.5);
      if (one.made) this.drawMade(context, plot, map, one, [x, y]);
    });
  }

  /** The way of the search to an answer: dotted, from where it began. */
  drawClimb(context, plot, map, points) {
    const whole = (p) => ({ place: p.place, predicted: Object.fromEntries(Object.entries(p.predicted).map(([name, v]) => [name, [v, v, v]])) });
    const at = points.map((p) => this.predicted(plot, map, whole(p))?.at).filter(Boolean);
    if (at.length < 2) return;
    context.save();
    context.strokeStyle = context.fillStyle = plot.style("--answer");
    context.lineWidth = 1.4;
    context.setLineDash([2, 3]);
    context.beginPath();
    at.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](x, y));
    context.stroke();
    context.beginPath();
    context.arc(...at[0], 2.5, 0, 2 * Math.PI);
    context.fill();
    context.restore();
  }

  /** A filled diamond where the weights of an answer lie, joined to the answer. */
  drawMade(context, plot, map, { made }, from) {
    const values = Object.entries(made.measured ?? {}).filter(([, v]) => v !== null).map(([name, v]) => [name, [v, v, v]]);
    const where = this.predicted(plot, map, { place: made.place, predicted: made.measured ? Object.fromEntries(values) : made.predicted });
    if (where === null) return;
    const [x, y] = where.at;
    if (!Number.isFinite(x + y)) return;
    context.strokeStyle = context.fillStyle = plot.style("--answer");
    context.lineWidth = 1.2;
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(x, y);
    context.stroke();
    diamond(context, x, y, 6);
    context.fill();
  }

  drawWay(context, plot, map) {
    const { found, at } = this.way;
    const points = found.points.map((p) => this.predicted(plot, map, p)).filter(Boolean).map((p) => p.at);
    if (points.length < 2) return;
    context.strokeStyle = context.fillStyle = plot.style("--answer");
    context.lineWidth = 2;
    arrows(context, points);
    context.beginPath();
    context.arc(...points[at], 7, 0, 2 * Math.PI);
    context.fillStyle = plot.style("--paper");
    context.fill();
    context.stroke();
  }

  legend() {
    const { data, state, colours } = this;
    const shows = JSON.stringify([state.get("colour"), state.get("chip"), darkness.matches]);
    if (shows === this.shows) return;
    this.shows = shows;
    const column = data.byKey.get(state.get("colour"));
    const missing = () => (colours.codes.some((c) => c === 255) ? el("span", { className: "quiet" }, colours.others > 0 ? `grey: ${counted(colours.others, "other value")} or none` : "grey: no value") : null);
    if (colours.chips) {
      const chips = colours.chips.map(({ code, colour, text, n }) => {
        const swatch = el("span", { className: "swatch" });
        swatch.style.backgroundColor = colour;
        const on = state.get("chip")?.key === column.key && state.get("chip").code === code;
        return el("button", { type: "button", className: "chip", "aria-pressed": String(on), title: "select these", onclick: () => state.set({ chip: on ? null : { key: column.key, code }, box: null }) }, swatch, `${shown(text)} (${n})`);
      });
      return fill(by("legend"), ...chips, missing());
    }
    if (colours.ends === null) return fill(by("legend"), missing());
    const bar = el("span", { className: "bar" });
    bar.style.backgroundImage = `linear-gradient(to right, ${colours.palette.join(",")})`;
    const [low, high] = colours.ends.map(number);
    fill(by("legend"), `${colours.beyond[0] ? "≤ " : ""}${low}`, bar, `${colours.beyond[1] ? "≥ " : ""}${high}${colours.logarithmic ? " (logarithmic)" : ""}`, missing());
  }

  counts() {
    const { state, data } = this;
    const sum = (mask) => mask.reduce((n, v) => n + v, 0);
    const visible = data.n - (state.hidden === null ? 0 : sum(state.hidden));
    const texts = [];
    if (state.selected !== null) texts.push(`${counted(sum(state.selected), "checkpoint")} selected (Esc clears)`);
    if (state.meeting !== null) texts.push(`${state.meeting.reduce((n, v, i) => n + (v && !state.hidden?.[i] ? 1 : 0), 0)} of ${visible} meet the targets`);
    if (state.hidden !== null) texts.push(`${counted(visible, "checkpoint")} in the filtered runs`);
    if (this.cut) texts.push(`the first ${MOST_PATHS} paths are drawn`);
    const text = texts.join(" · ");
    if (by("counts").textContent !== text) by("counts").textContent = text;
  }

  start() {
    this.state.restore(location.hash, this.defaults());
    requestAnimationFrame(() => setTimeout(() => {
      performance.mark("epsopt:first view");
      document.body.dataset.ready = "yes";
    }));
  }
}

loadData().then((data) => new Page(data).start()).catch((error) => {
  fill(by("trust"), el("summary", {}, `The page could not be read: ${error.message}`));
  throw error;
});
