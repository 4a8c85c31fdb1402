// Axes: linear, logarithmic, or by the distance from a bound where a metric crowds at it.

export const LINEAR = { to: (v) => v, from: (v) => v };
const LOG = { to: (v) => (v > 0 ? Math.log10(v) : NaN), from: (at) => 10 ** at, decades: true };

/** The scale of a column, as Python chose it: the same as in every other picture of the metric. */
export function scaleOf({ logarithmic, scale }) {
  if (!scale) return logarithmic ? LOG : LINEAR;
  const { bound, unit, cap, flipped, words } = scale;
  const turn = flipped ? -1 : 1;
  return {
    decades: true,
    turn,
    words,
    bound: { at: turn * cap, value: bound },
    to: (v) => (Number.isNaN(v) ? NaN : turn * Math.min(-Math.log10(Math.max((turn * (bound - v)) / unit, 0)), cap)),
    from: (at) => (turn * at >= cap - 1e-9 ? bound : bound - turn * unit * 10 ** (-turn * at)),
  };
}

/** Values scaled for drawing; NaN where the scale has no place for one. */
export function scaled(values, scale) {
  return scale === LINEAR ? values : Float64Array.from(values, scale.to);
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
export function ticks([low, high], scale, most, text) {
  if (scale.decades) return decades([low, high], scale, most, text);
  const raw = (high - low) / Math.max(most, 2);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
  const out = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) {
    const at = k * step;
    out.push({ at, text: text(Math.abs(at) < 1e-12 * step ? 0 : Number(at.toPrecision(12))) });
  }
  return out;
}

/** Powers of ten, and some between where there is room. */
function decades([low, high], scale, most, text) {
  const span = high - low;
  const steps = span * 3 <= most ? [1, 2, 5] : span * 2 <= most ? [1, 3] : [1];
  const every = Math.max(1, Math.ceil(span / most));
  const bound = scale.bound;
  const out = [];
  for (let power = -12; power <= 12; power++) {
    if (power % every !== 0) continue;
    for (const step of steps) {
      const at = (scale.turn === 1 ? -1 : 1) * Math.log10(step * 10 ** power);
      if (at < low || at > high || (bound && Math.abs(bound.at - at) < Math.max(0.06, 0.45 / most) * span)) continue;
      if (bound && scale.turn * at > scale.turn * bound.at) continue;
      out.push({ at, text: text(Number(scale.from(at).toPrecision(12))) });
    }
  }
  if (bound && bound.at >= low && bound.at <= high) out.push({ at: bound.at, text: text(bound.value) });
  return out.sort((a, b) => a.at - b.at);
}
