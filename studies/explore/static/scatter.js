// One plot of points: axes, points, a box to select with, and what others draw below and above the points.

import { el, number } from "./text.js";
import { MISSING, pixel } from "./colours.js";
import { frame, scaled, ticks } from "./scales.js";

const MARGIN = { left: 58, right: 14, top: 10, bottom: 42 };
const NEAR = 14; // pixels within which a click means a point
const FEW = 3000; // points up to which each is a smooth disc; of more, one is a few pixels
const MOVED = 4; // pixels from which on a click is a box

export class Scatter {
  /** `on` has box(ends), pick(row), moved(window), describe(row) -> lines, outside(text, some), under and over (context, plot). */
  constructor(root, name, on) {
    this.on = on;
    this.root = root;
    this.base = el("canvas", { className: "base" });
    this.top = el("canvas", { className: "top" });
    this.tip = el("div", { className: "tip", hidden: true });
    this.said = el("div", { className: "said", "aria-live": "polite" });
    this.frame = el("div", { className: "canvases", tabIndex: 0, role: "application", "aria-label": name }, this.base, this.top, this.tip);
    root.append(this.frame, this.said);
    this.cursor = -1;
    this.corner = -1; // the point at which a box that is drawn with keys begins
    this.drag = null;
    this.sprites = new Map();
    this.window = null;
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.frame);
  }

  /** Axes: `{ key, title, scale, values }` for both directions, with `ends` of a frame that is not fitted to them. */
  setAxes(across, up) {
    this.across = across;
    this.up = up;
    this.xs = scaled(across.values, across.scale);
    this.ys = scaled(up.values, up.scale);
    this.fit();
  }

  fit() {
    this.window = { x: this.across.ends ?? frame(this.xs), y: this.up.ends ?? frame(this.ys) };
  }

  /** Show a part of the axes, or what fits where none is named; no drawing yet. Says whether that is another part. */
  look(wanted) {
    const before = JSON.stringify(this.window);
    if (wanted) this.window = wanted;
    else this.fit();
    return JSON.stringify(this.window) !== before;
  }

  /** Go to a part of the axes by hand; null: back to what fits. */
  go(wanted) {
    this.look(wanted);
    this.draw();
    this.on.moved(wanted);
  }

  /** Colours by code, and what is hidden and dimmed; no drawing yet. */
  setMarks({ codes, palette }, hidden, dimmed) {
    Object.assign(this, { codes, palette, hidden, dimmed });
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.frame;
    if (width === 0 || (width === this.width && height === this.height)) return;
    Object.assign(this, { width, height, ratio: window.devicePixelRatio || 1 });
    for (const canvas of [this.base, this.top]) {
      canvas.width = Math.round(width * this.ratio);
      canvas.height = Math.round(height * this.ratio);
    }
    this.draw();
  }

  /** Pixels of a place in the axes' own units. */
  at(x, y) {
    return [this.px(this.across.scale.to(x)), this.py(this.up.scale.to(y))];
  }

  px(x) {
    const [low, high] = this.window.x;
    return MARGIN.left + ((x - low) / (high - low)) * (this.width - MARGIN.left - MARGIN.right);
  }

  py(y) {
    const [low, high] = this.window.y;
    return this.height - MARGIN.bottom - ((y - low) / (high - low)) * (this.height - MARGIN.top - MARGIN.bottom);
  }

  /** A place in the axes' own units, of pixels. */
  value(px, py) {
    const [x, y] = this.inner(px, py);
    return [this.across.scale.from(x), this.up.scale.from(y)];
  }

  inner(px, py) {
    const { x, y } = this.window;
    return [
      x[0] + ((px - MARGIN.left) / (this.width - MARGIN.left - MARGIN.right)) * (x[1] - x[0]),
      y[0] + ((this.height - MARGIN.bottom - py) / (this.height - MARGIN.top - MARGIN.bottom)) * (y[1] - y[0]),
    ];
  }

  clip(context) {
    context.beginPath();
    context.rect(MARGIN.left, MARGIN.top, this.width - MARGIN.left - MARGIN.right, this.height - MARGIN.top - MARGIN.bottom);
    context.clip();
  }

  style(name) {
    return getComputedStyle(this.root).getPropertyValue(name).trim();
  }

  draw() {
    if (!this.width || !this.window || !this.codes) return;
    const context = this.base.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    this.axes(context);
    context.save();
    this.clip(context);
    this.on.under(context, this);
    this.points(context);
    context.restore();
    this.drawTop();
    this.outside();
  }

  axes(context) {
    const [ink, quiet, line] = ["--ink", "--quiet", "--line"].map((n) => this.style(n));
    const bottom = this.height - MARGIN.bottom;
    context.font = "11px system-ui, sans-serif";
    context.lineWidth = 1;
    context.strokeStyle = line;
    context.fillStyle = quiet;
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const { at, text } of ticks(this.window.x, this.across.scale, this.width / 90, number)) {
      const x = Math.round(this.px(at)) + 0.5;
      stroke(context, x, MARGIN.top, x, bottom);
      context.fillText(text, x, bottom + 5);
    }
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const { at, text } of ticks(this.window.y, this.up.scale, this.height / 60, number)) {
      const y = Math.round(this.py(at)) + 0.5;
      stroke(context, MARGIN.left, y, this.width - MARGIN.right, y);
      context.fillText(text, MARGIN.left - 6, y);
    }
    context.fillStyle = ink;
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "bottom";
    context.fillText(this.across.title, (MARGIN.left + this.width - MARGIN.right) / 2, this.height - 4, this.width - 80);
    context.save();
    context.translate(12, (MARGIN.top + bottom) / 2);
    context.rotate(-Math.PI / 2);
    context.textBaseline = "middle";
    context.fillText(this.up.title, 0, 0, this.height - 60);
    context.restore();
  }

  /** Calls `put(row, x, y, dim)` for every point to be seen, the dimmed first: none lies over one that is lit. */
  each(put) {
    const { xs, ys, hidden, dimmed } = this;
    const [left, right, top, bottom] = [MARGIN.left - 5, this.width - MARGIN.right + 5, MARGIN.top - 5, this.height - MARGIN.bottom + 5];
    const [x0, kx] = [this.px(0), this.px(1) - this.px(0)];
    const [y0, ky] = [this.py(0), this.py(1) - this.py(0)];
    for (const pass of dimmed ? [1, 0] : [0]) {
      for (let i = 0; i < xs.length; i++) {
        if ((dimmed && dimmed[i] !== pass) || (hidden && hidden[i])) continue;
        const x = x0 + kx * xs[i];
        const y = y0 + ky * ys[i];
        if (x > left && x < right && y > top && y < bottom) put(i, x, y, pass === 1);
      }
    }
  }

  points(context) {
    if (this.xs.length > FEW) return this.dots(context);
    const { codes } = this;
    const radius = this.xs.length > 1000 ? 3 : 4;
    const [quiet, paper] = [this.style("--faint"), this.style("--paper")];
    const faint = this.sprite(quiet, radius * 0.8, paper);
    const missing = this.sprite(quiet, radius, paper);
    const lit = this.palette.map((colour) => this.sprite(colour, radius, paper));
    this.each((row, x, y, dim) => {
      const image = dim ? faint : codes[row] === MISSING ? missing : lit[codes[row]];
      context.drawImage(image.canvas, x - image.half, y - image.half, 2 * image.half, 2 * image.half);
    });
  }

  /** Many points, pixel by pixel: a tenth of the time that as many discs take. */
  dots(context) {
    const { codes, ratio } = this;
    const [width, height] = [this.base.width, this.base.height];
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const faint = pixel(this.style("--faint"));
    const lit = this.palette.map(pixel);
    const radius = (this.xs.length > 30000 ? 1.2 : 2.2) * ratio;
    const rows = []; // of a disc: [dy, half its width]
    for (let dy = -Math.floor(radius); dy <= radius; dy++) rows.push([dy, Math.floor(Math.sqrt(radius * radius - dy * dy))]);
    this.each((row, x, y, dim) => {
      const colour = dim || codes[row] === MISSING ? faint : lit[codes[row]];
      const [cx, cy] = [Math.round(x * ratio), Math.round(y * ratio)];
      for (const [dy, half] of rows) {
        const line = cy + dy;
        if (line < 0 || line >= height) continue;
        const from = line * width + Math.max(cx - half, 0);
        pixels.fill(colour, from, line * width + Math.min(cx + half + 1, width));
      }
    });
    this.sheet ??= el("canvas");
    Object.assign(this.sheet, { width, height });
    this.sheet.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(this.sheet, 0, 0, this.width, this.height);
  }

  /** A disc drawn once, to be copied for every point. */
  sprite(colour, radius, paper) {
    const key = `${colour}|${radius}|${paper}|${this.ratio}`;
    let found = this.sprites.get(key);
    if (!found) {
      const half = radius + 1;
      const canvas = el("canvas", { width: Math.ceil(2 * half * this.ratio), height: Math.ceil(2 * half * this.ratio) });
      const context = canvas.getContext("2d");
      context.scale(canvas.width / (2 * half), canvas.width / (2 * half));
      context.beginPath();
      context.arc(half, half, radius, 0, 2 * Math.PI);
      context.fillStyle = colour;
      context.fill();
      if (radius >= 3) {
        context.lineWidth = 0.8;
        context.strokeStyle = paper;
        context.stroke();
      }
      found = { canvas, half };
      this.sprites.set(key, found);
    }
    return found;
  }

  drawTop() {
    const context = this.top.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    context.save();
    this.clip(context);
    this.on.over(context, this);
    if (this.cursor >= 0) this.ring(context, this.cursor, 8, this.style("--ink"));
    const ends = this.drag?.box ? [this.drag.from, this.drag.to] : this.corner >= 0 ? this.cornered() : null;
    if (ends) {
      const [a, b] = ends;
      context.strokeStyle = this.style("--accent");
      context.fillStyle = this.style("--wash");
      context.fillRect(a[0], a[1], b[0] - a[0], b[1] - a[1]);
      context.strokeRect(a[0], a[1], b[0] - a[0], b[1] - a[1]);
    }
    context.restore();
  }

  ring(context, row, radius, colour) {
    const [x, y] = [this.px(this.xs[row]), this.py(this.ys[row])];
    if (Number.isNaN(x + y)) return;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.lineWidth = 2;
    context.strokeStyle = colour;
    context.stroke();
  }

  /** Say how many points are not to be seen. */
  outside() {
    const { x, y } = this.window;
    let [outside, missing] = [0, 0];
    for (let i = 0; i < this.xs.length; i++) {
      if (this.hidden?.[i]) continue;
      if (Number.isNaN(this.xs[i] + this.ys[i])) missing++;
      else if (this.xs[i] < x[0] || this.xs[i] > x[1] || this.ys[i] < y[0] || this.ys[i] > y[1]) outside++;
    }
    const texts = [];
    if (outside) texts.push(`${outside} outside the frame`);
    if (missing) texts.push(`${missing} without a value here`);
    this.on.outside(texts.join(" · "), outside > 0);
  }

  /** Show every point, those far out too. */
  showAll() {
    const ends = (values) => {
      let [low, high] = [Infinity, -Infinity];
      for (const v of values) if (Number.isFinite(v)) [low, high] = [Math.min(low, v), Math.max(high, v)];
      const margin = 0.06 * (high - low) || 1;
      return [low - margin, high + margin];
    };
    this.go({ x: ends(this.xs), y: ends(this.ys) });
  }

  zoom(factor, px = this.width / 2, py = this.height / 2) {
    const [x, y] = this.inner(px, py);
    const about = ([low, high], at) => [at + (low - at) * factor, at + (high - at) * factor];
    this.go({ x: about(this.window.x, x), y: about(this.window.y, y) });
  }

  pan(dx, dy) {
    const [x0, y0] = this.inner(0, 0);
    const [x1, y1] = this.inner(dx, dy);
    this.go({ x: this.window.x.map((v) => v - x1 + x0), y: this.window.y.map((v) => v - y1 + y0) });
  }

  nearest(px, py, fits = () => true) {
    let [best, found] = [Infinity, -1];
    for (let i = 0; i < this.xs.length; i++) {
      if (this.hidden?.[i]) continue;
      const [dx, dy] = [this.px(this.xs[i]) - px, this.py(this.ys[i]) - py];
      const away = dx * dx + dy * dy;
      if (away < best && fits(dx, dy)) [best, found] = [away, i];
    }
    return [found, Math.sqrt(best)];
  }

  listen() {
    const here = (event) => {
      const box = this.frame.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    this.frame.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.frame.setPointerCapture(event.pointerId);
      this.drag = { from: here(event), to: here(event), box: false, pan: event.shiftKey };
    });
    this.frame.addEventListener("pointermove", (event) => {
      const to = here(event);
      if (this.drag === null) return this.hover(to);
      const [dx, dy] = [to[0] - this.drag.to[0], to[1] - this.drag.to[1]];
      this.drag.to = to;
      if (this.drag.pan) return this.pan(dx, dy);
      this.drag.box ||= Math.hypot(to[0] - this.drag.from[0], to[1] - this.drag.from[1]) > MOVED;
      if (this.drag.box) this.drawTop();
    });
    this.frame.addEventListener("pointerup", () => {
      const drag = this.drag;
      this.drag = null;
      if (drag === null || drag.pan) return;
      if (!drag.box) {
        const [row, away] = this.nearest(...drag.to);
        if (row >= 0 && away <= NEAR) this.on.pick(row);
        return;
      }
      this.select(drag.from, drag.to);
    });
    this.frame.addEventListener("pointercancel", () => (this.drag = null));
    this.frame.addEventListener("pointerleave", () => (this.tip.hidden = true));
    this.frame.addEventListener("dblclick", () => this.go(null));
    this.frame.addEventListener("wheel", (event) => {
      // A wheel that turns over a plot on its way down the page is not meant for the plot.
      if (document.activeElement !== this.frame && !event.ctrlKey) return;
      event.preventDefault();
      this.zoom(event.deltaY > 0 ? 1.2 : 1 / 1.2, ...here(event));
    }, { passive: false });
    this.frame.addEventListener("keydown", (event) => this.key(event));
  }

  /** Select the box between two places in pixels. */
  select(from, to) {
    const [a, b] = [this.value(...from), this.value(...to)];
    const sorted = [0, 1].map((k) => [Math.min(a[k], b[k]), Math.max(a[k], b[k])]);
    this.on.box([...sorted[0], ...sorted[1]]);
  }

  /** Begin a box at the cursor's point, or end it there. */
  box() {
    if (this.cursor < 0) this.step([0, 0]);
    if (this.cursor < 0) return;
    if (this.corner < 0) {
      this.corner = this.cursor;
      this.said.textContent = `a box begins at ${this.on.describe(this.cursor)[0]}: arrows move its other corner, b ends it`;
      return this.drawTop();
    }
    const ends = this.cornered();
    this.corner = -1;
    this.select(...ends);
  }

  /** The corners of the box that is drawn with keys, in pixels, its two points well inside. */
  cornered() {
    const [a, b] = [this.corner, this.cursor].map((row) => [this.px(this.xs[row]), this.py(this.ys[row])]);
    const away = [0, 1].map((k) => (a[k] <= b[k] ? -3 : 3));
    return [a.map((v, k) => v + away[k]), b.map((v, k) => v - away[k])];
  }

  hover([x, y]) {
    const [row, away] = this.nearest(x, y);
    if (row < 0 || away > NEAR) return void (this.tip.hidden = true);
    this.tip.replaceChildren(...this.on.describe(row).map((line) => el("div", {}, line)));
    this.tip.hidden = false;
    const right = x > this.width / 2;
    this.tip.style.left = right ? "auto" : `${x + 14}px`;
    this.tip.style.right = right ? `${this.width - x + 14}px` : "auto";
    this.tip.style.top = `${Math.min(y + 10, this.height - 90)}px`;
  }

  key(event) {
    const towards = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (towards && event.shiftKey) this.pan(-40 * towards[0], -40 * towards[1]);
    else if (towards) this.step(towards);
    else if ((event.key === "Enter" || event.key === " ") && this.cursor >= 0) this.on.pick(this.cursor);
    else if (event.key === "+" || event.key === "=") this.zoom(1 / 1.3);
    else if (event.key === "-") this.zoom(1.3);
    else if (event.key === "0") this.go(null);
    else if (event.key === "b") this.box();
    else if (event.key === "Escape" && this.corner >= 0) this.corner = -1; // the page clears its selection besides
    else return;
    event.preventDefault();
  }

  /** Move the cursor to the next point in a direction. */
  step([dx, dy]) {
    const start = this.cursor < 0 ? this.nearest(this.width / 2, this.height / 2)[0] : this.cursor;
    if (start < 0) return;
    if (this.cursor >= 0) {
      const [x, y] = [this.px(this.xs[start]), this.py(this.ys[start])];
      const ahead = (ax, ay) => ax * dx + ay * dy > 0.5 && Math.abs(ax * dy) + Math.abs(ay * dx) <= ax * dx + ay * dy;
      const [row] = this.nearest(x, y, ahead);
      if (row >= 0) this.cursor = row;
    } else this.cursor = start;
    this.said.textContent = this.on.describe(this.cursor).join(", ");
    this.drawTop();
  }
}

function stroke(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

/** The outline of a diamond around a point, to fill or to stroke. */
export function diamond(context, x, y, size) {
  context.beginPath();
  context.moveTo(x, y - size);
  context.lineTo(x + size, y);
  context.lineTo(x, y + size);
  context.lineTo(x - size, y);
  context.closePath();
}

/** A line through points (pixels) with an arrowhead in each part that is long enough, and at the end. */
export function arrows(context, points) {
  context.beginPath();
  points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.stroke();
  for (let i = 1; i < points.length; i++) {
    const [[x0, y0], [x1, y1]] = [points[i - 1], points[i]];
    const length = Math.hypot(x1 - x0, y1 - y0);
    if (length < 2 || (length < 22 && i < points.length - 1)) continue;
    const [ux, uy] = [(x1 - x0) / length, (y1 - y0) / length];
    const share = i === points.length - 1 ? 1 : 0.6;
    const [tx, ty] = [x0 + share * (x1 - x0) - (share === 1 ? 4 * ux : 0), y0 + share * (y1 - y0) - (share === 1 ? 4 * uy : 0)];
    context.beginPath();
    context.moveTo(tx, ty);
    context.lineTo(tx - 8 * ux - 4 * uy, ty - 8 * uy + 4 * ux);
    context.lineTo(tx - 8 * ux + 4 * uy, ty - 8 * uy - 4 * ux);
    context.closePath();
    context.fill();
  }
}
