// Axes: linear, logarithmic, and "distance to 1" for metrics that crowd there.

const SCALES = {
  linear: { to: (v) => v, from: (v) => v },
  log: { to: (v) => (v > 0 ? Math.log10(v) : NaN), from: (v) => 10 ** v },
  // Of 0.99 and 0.999 a linear axis tells nothing; 1 itself stands where 1e-6 less would.
  "near 1": { to: (v) => (v <= 1 ? -Math.log10(Math.max(1 - v, 1e-6)) : NaN), from: (v) => 1 - 10 ** -v },
};

export function scale(kind) {
  return SCALES[kind];
}

/** The scale on which a column's values can be told apart. */
export function fitting(values, logarithmic) {
  if (logarithmic) return "log";
  let n = 0;
  let near = 0;
  let low = Infinity;
  for (const v of values) {
    if (!Number.isFinite(v)) continue;
    if (v > 1) return "linear";
    n++;
    if (v > 0.97) near++;
    low = Math.min(low, v);
  }
  return n > 0 && low >= 0 && near > 0.6 * n ? "near 1" : "linear";
}

/** Values scaled for drawing; NaN where the scale has no place for one. */
export function scaled(values, kind) {
  if (kind === "linear") return values;
  const { to } = SCALES[kind];
  return Float64Array.from(values, to);
}

/** Lowest and highest finite value: all of them, or the middle 98 % where a few lie far out. */
export function frame(values) {
  const finite = Float64Array.from(values).filter(Number.isFinite).sort();
  if (finite.length === 0) return [0, 1];
  const n = finite.length - 1;
  let [low, high] = [finite[0], finite[n]];
  const [inner, outer] = [finite[Math.floor(0.01 * n)], finite[Math.ceil(0.99 * n)]];
  const room = outer - inner;
  if (room > 0 && inner - low > 0.5 * room) low = inner;
  if (room > 0 && high - outer > 0.5 * room) high = outer;
  const margin = high > low ? 0.06 * (high - low) : Math.abs(low) * 0.1 || 1;
  return [low - margin, high + margin];
}

/** Round values for an axis, at most about `most`, each with its text. */
export function ticks([low, high], kind, most, text) {
  const raw = (high - low) / Math.max(most, 2);
  const power = 10 ** Math.floor(Math.log10(raw));
  const unit = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
  const step = kind === "linear" ? unit : Math.max(unit, unit < 1 ? unit : Math.ceil(unit));
  const out = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) {
    const at = k * step;
    out.push({ at, text: text(SCALES[kind].from(Math.abs(at) < 1e-12 * step ? 0 : Number(at.toPrecision(12)))) });
  }
  return out;
}
