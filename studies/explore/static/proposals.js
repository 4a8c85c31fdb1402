// The next training configs: to copy, or to queue where the page may write.

import { code, copyButton, counted, el, fill, number, percent } from "./text.js";
import { ask } from "./data.js";

export class Proposals {
  constructor(root, state, onMade) {
    this.onMade = onMade;
    this.state = state;
    this.data = state.data;
    this.n = el("input", { type: "number", id: "how-many", min: 1, max: 32, value: 4 });
    this.found = el("div", { id: "proposed" });
    this.buttons = [el("button", { type: "button", className: "main", onclick: () => this.propose("GET") }, "Propose")];
    if (this.data.writes) this.buttons.push(el("button", { type: "button", onclick: () => this.propose("POST") }, "Propose and queue"));
    const hint = this.data.writes
      ? "Queued proposals are trained by 'epsopt work'."
      : "Read-only: copy a config, or let 'epsopt propose' queue them ('epsopt explore --allow-writes' lets this page).";
    fill(root, el("p", { className: "row" }, el("label", { htmlFor: "how-many" }, "Runs"), this.n, ...this.buttons), el("p", { className: "quiet" }, hint), this.found);
  }

  async propose(method) {
    const query = { n: this.n.value };
    for (const [name, value] of Object.entries(this.state.get("targets"))) query[`target.${name}`] = value;
    for (const button of this.buttons) button.disabled = true;
    fill(this.found, el("p", { className: "loading" }, "learning from past runs; this takes a while …"));
    try {
      const made = await ask("proposals", query, method);
      this.onMade(made.proposals);
      const said = made.queued ? `${counted(made.proposals.length, "proposal")} queued: 'epsopt work' trains them.` : `${counted(made.proposals.length, "proposal")}, not queued. Hollow among the measured: what their runs are predicted to end with.`;
      fill(this.found, el("p", {}, said), ...made.proposals.map((p, i) => this.one(p, i, made.proposals.length)));
    } catch (error) {
      fill(this.found, el("p", { className: "error" }, error.message));
    } finally {
      for (const button of this.buttons) button.disabled = false;
    }
  }

  one(proposal, i) {
    const text = JSON.stringify(proposal.config, null, 1);
    const rows = Object.entries(proposal.predicted).map(([name, [point, low, high]]) =>
      el("tr", {}, el("th", { scope: "row", className: "text" }, name), el("td", {}, number(point)), el("td", {}, `[${number(low)}, ${number(high)}]`)));
    return el("article", { className: "proposal" },
      el("h4", {}, proposal.number === null ? `Proposal ${i + 1}` : `Trial ${proposal.number}`),
      el("p", { className: "quiet" }, proposal.reason ?? ""),
      el("table", {}, el("thead", {}, el("tr", {}, ...["metric", "predicted", `${percent(this.data.level)} interval`].map((h, k) => el("th", { scope: "col", className: k ? "" : "text" }, h)))), el("tbody", {}, ...rows)),
      code(text), copyButton("copy config", () => text));
  }
}
