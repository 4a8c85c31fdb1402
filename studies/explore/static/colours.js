// Colours that the colour-blind tell apart, on light and on dark paper.

// Viridis (Smith and van der Walt, 2015), eleven of its colours.
const VIRIDIS = ["440154", "482475", "414487", "355f8d", "2a788e", "21918c", "22a884", "44bf70", "7ad151", "bddf26", "fde725"];
// Of Okabe and Ito (2008), as in every other picture of epsopt.
const KINDS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d1f", "#7f7f7f"];
export const STEPS = 32;
export const MISSING = 255;

function mixed(share) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
  const i = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const parts = [0, 2, 4].map((k) => {
    const [a, b] = [VIRIDIS[i], VIRIDIS[i + 1]].map((c) => parseInt(c.slice(k, k + 2), 16));
    return Math.round(a + (place - i) * (b - a));
  });
  return `rgb(${parts.join(",")})`;
}

/** The scale's colours: on light paper without its palest end, on dark paper without its darkest. */
export function ramp(dark, steps = STEPS) {
  const [from, to] = dark ? [0.22, 1] : [0, 0.9];
  return Array.from({ length: steps }, (_, i) => mixed(from + ((to - from) * i) / (steps - 1)));
}

/** How each checkpoint is coloured: a code into a palette, and what the legend says. */
export function colouring(data, key, dark) {
  const column = data.byKey.get(key);
  const values = data.perCheckpoint(key);
  const codes = new Uint8Array(data.n).fill(MISSING);
  if (column.categories) {
    const counts = new Array(column.categories.length).fill(0);
    for (let i = 0; i < data.n; i++) if (values[i] >= 0) counts[values[i]]++;
    const order = counts.map((_, code) => code);
    if (order.length > KINDS.length) order.sort((a, b) => counts[b] - counts[a]);
    const place = new Array(counts.length).fill(MISSING);
    order.slice(0, KINDS.length).forEach((code, i) => (place[code] = i));
    for (let i = 0; i < data.n; i++) if (values[i] >= 0) codes[i] = place[values[i]];
    const chips = order.slice(0, KINDS.length).map((code, i) => ({ code, colour: KINDS[i], text: column.categories[code], n: counts[code] }));
    return { codes, palette: KINDS, chips, others: order.length - chips.length };
  }
  const finite = values.filter(Number.isFinite).sort();
  if (finite.length === 0) return { codes, palette: ramp(dark), ends: null };
  // A few values far out would leave one colour to all others.
  const [low, high] = [finite[Math.floor(0.01 * (finite.length - 1))], finite[Math.ceil(0.99 * (finite.length - 1))]];
  const scale = column.logarithmic ? Math.log : (v) => v;
  const [bottom, span] = [scale(low), scale(high) - scale(low)];
  for (let i = 0; i < data.n; i++) {
    if (!Number.isFinite(values[i])) continue;
    const share = span > 0 ? (scale(values[i]) - bottom) / span : 0.5;
    codes[i] = Math.round(Math.min(Math.max(share, 0), 1) * (STEPS - 1));
  }
  const beyond = [finite[0] < low, finite[finite.length - 1] > high];
  return { codes, palette: ramp(dark), ends: [low, high], beyond, logarithmic: column.logarithmic };
}

/** A colour as a pixel of ImageData, little-endian. */
export function pixel(colour) {
  const hex = colour.match(/^#(..)(..)(..)$/);
  const [r, g, b] = hex ? hex.slice(1).map((part) => parseInt(part, 16)) : colour.match(/\d+/g).map(Number);
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
}
