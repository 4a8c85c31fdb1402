// The table of runs: sorted by any column, filtered with the page, lit with the selection.

import { counted, el, fill, number } from "./text.js";

const MOST = 200; // rows: a browser takes seconds for ten thousand
const FIRST = 30; // rows that are drawn at once, more than are seen; the others follow when the browser has time

export class RunTable {
  constructor(root, state, onCheckpoint) {
    this.state = state;
    this.data = state.data;
    this.onCheckpoint = onCheckpoint;
    this.order = { key: "label", down: false };
    this.body = el("tbody");
    this.more = el("p", { className: "quiet" });
    this.heads = el("tr");
    // Once: comparing names as people do takes longer than all the rest.
    const collator = new Intl.Collator("en", { numeric: true });
    const labels = this.data.runs.map((r, run) => [r.label, run]).sort((a, b) => collator.compare(a[0], b[0]));
    this.rank = new Uint32Array(labels.length);
    labels.forEach(([, run], place) => (this.rank[run] = place));
    this.all = this.describe();
    root.append(el("div", { className: "scroll" }, el("table", { id: "runs" }, el("thead", {}, this.heads), this.body)), this.more);
    state.on((names) => {
      if (["filter", "run", "box", "chip", "targets", "chosen"].some((n) => names.has(n))) this.draw();
    });
  }

  describe() {
    const { data } = this;
    const epoch = data.values("epoch");
    const front = data.values("front");
    const last = (run) => data.rows[run][data.rows[run].length - 1];
    const some = (rows, mask) => rows.reduce((n, row) => n + (mask[row] ? 1 : 0), 0);
    return [
      { key: "label", title: "run", value: (run) => data.runs[run].label, text: true },
      { key: "n", title: "checkpoints", value: (run) => data.rows[run].length },
      { key: "epoch", title: "last epoch", value: (run) => epoch[last(run)] },
      ...data.objectives.map(({ name, maximize }) => ({
        key: name, title: `${name} (${maximize ? "max" : "min"})`, hint: "measured on its last checkpoint",
        value: (run) => data.values(`metric:${name}`)?.[last(run)] ?? NaN,
      })),
      { key: "front", title: "on the front", value: (run) => some(data.rows[run], front) },
      { key: "meet", title: "meet", value: (run) => (this.state.meeting ? some(data.rows[run], this.state.meeting) : NaN) },
      { key: "selected", title: "selected", value: (run) => (this.state.selected ? some(data.rows[run], this.state.selected) : NaN) },
    ];
  }

  draw() {
    const { state, data, order } = this;
    this.columns = this.all.filter(({ key }) => (key !== "meet" || state.meeting) && (key !== "selected" || state.selected));
    const wanted = this.all.find((c) => c.key === order.key);
    const runs = data.runs.map((_, run) => run).filter((run) => !state.hidden?.[data.rows[run][0]]);
    const values = new Map(runs.map((run) => [run, wanted.value(run)]));
    const selected = this.all.find((c) => c.key === "selected");
    const lit = state.selected ? new Set(runs.filter((run) => selected.value(run) > 0)) : null;
    const compare = (a, b) => {
      if (lit && lit.has(a) !== lit.has(b)) return lit.has(a) ? -1 : 1;
      const [x, y] = [values.get(a), values.get(b)];
      if (wanted.text) return (order.down ? -1 : 1) * (this.rank[a] - this.rank[b]);
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return order.down ? y - x : x - y;
    };
    runs.sort(compare);
    fill(this.heads, ...this.columns.map((column) => this.head(column)), el("th"));
    fill(this.body, ...runs.slice(0, FIRST).map((run) => this.row(run, lit)));
    clearTimeout(this.rest);
    if (runs.length > FIRST) this.rest = setTimeout(() => this.body.append(...runs.slice(FIRST, MOST).map((run) => this.row(run, lit))), 100);
    const left = runs.length - MOST;
    this.more.textContent = left > 0 ? `${counted(left, "more run")}: filter or sort to see them` : runs.length ? "" : "no run fits the filter";
  }

  head(column) {
    const sorted = this.order.key === column.key;
    const press = () => {
      this.order = { key: column.key, down: sorted ? !this.order.down : !column.text };
      this.draw();
    };
    const arrow = sorted ? (this.order.down ? " ▾" : " ▴") : "";
    const button = el("button", { type: "button", onclick: press, title: column.hint ?? "" }, column.title + arrow);
    return el("th", { scope: "col", "aria-sort": sorted ? (this.order.down ? "descending" : "ascending") : "none", className: column.text ? "text" : "" }, button);
  }

  row(run, lit) {
    const { state, data } = this;
    const press = () => state.set({ run: state.get("run") === run ? -1 : run });
    const chosen = state.get("run") === run;
    const name = el("button", { type: "button", onclick: press, title: data.runs[run].name, "aria-pressed": String(chosen) }, data.runs[run].label);
    const cells = this.columns.slice(1).map((column) => el("td", {}, number(column.value(run))));
    const last = data.rows[run][data.rows[run].length - 1];
    const open = el("button", { type: "button", className: "quiet", title: "details of its last checkpoint", onclick: () => this.onCheckpoint(last) }, "details");
    const classes = [chosen ? "chosen" : "", lit ? (lit.has(run) ? "lit" : "dim") : ""].filter(Boolean).join(" ");
    return el("tr", { className: classes }, el("th", { scope: "row", className: "text" }, name), ...cells, el("td", {}, open));
  }
}
