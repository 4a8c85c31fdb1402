// What the page says first: how far the map can be trusted.

import { counted, el, fill, number, percent } from "./text.js";

export function showTrust(root, data) {
  const { trust } = data;
  const poor = trust.warnings.length > 0;
  const parts = trust.metrics.map((m) => `${m.name} ±${short(m.error)}, ${percent(m.coverage)} inside`);
  const lead = poor ? `Careful, ${counted(trust.warnings.length, "warning")}. ` : "";
  const held = `On runs that the map had not seen: ${parts.join(" · ")} of ${percent(trust.level)} intervals. ${inShort(trust.proposals)}`;
  const summary = el("summary", {}, el("strong", {}, lead), held);
  const rows = trust.metrics.map((m) => el("tr", {}, el("th", { scope: "row", className: "text" }, m.name), ...[m.error, m.median_error].map((v) => el("td", {}, number(v))), el("td", {}, percent(m.coverage)), el("td", {}, number(m.width)), el("td", {}, String(m.n))));
  const heads = ["metric", "mean error", "error of the median", "inside the intervals", "mean width", "held-out checkpoints"];
  const out = [
    summary,
    el("p", {}, `The map learned from ${counted(trust.n_checkpoints, "checkpoint")} of ${counted(trust.n_runs, "run")}; it was tested in ${trust.folds} folds, whole runs held out.`),
    el("div", { className: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((h, i) => el("th", { scope: "col", className: i ? "" : "text" }, h)))), el("tbody", {}, ...rows))),
    ...trust.warnings.map((w) => el("p", { className: "error" }, w)),
    ...data.notes.map((n) => el("p", { className: "quiet" }, n)),
    ...fared(trust.proposals),
    el("p", { className: "quiet" }, "Colours of predictions and of their errors are the map's own, which has learned from these measurements: the errors above are those to expect of new runs."),
  ];
  root.classList.toggle("poor", poor);
  fill(root, ...out);
}

/** An error as a headline has it, with two digits. */
function short(error) {
  return error === null ? number(error) : number(Number(error.toPrecision(2)));
}

/** How proposals fared, in one sentence. */
function inShort(proposals) {
  if (proposals === null) return "No proposals yet.";
  const [inside, n] = ["inside", "n"].map((key) => proposals.accuracy.reduce((sum, a) => sum + a[key], 0));
  return n ? `Of proposals, ${inside} of ${counted(n, "measured value")} inside.` : "No proposal measured yet.";
}

function fared(proposals) {
  if (proposals === null) return [el("p", {}, "No proposals were made yet, so nothing is known of how they fare.")];
  const gain = proposals.gain === null ? "" : ` They moved the hypervolume of the measured front from ${number(proposals.gain.before)} to ${number(proposals.gain.after)}.`;
  const held = proposals.accuracy.filter((a) => a.n > 0).map((a) => `${a.name}: ${a.inside} of ${a.n} inside the intervals, mean error ${number(a.error)}`);
  return [el("p", { id: "fared" }, `${proposals.text}.${gain} ${held.join("; ")}`)];
}
