// Numbers over steps as SVG, drawn here. A panel a quantity, a line a stage.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const PANEL = { width: 400, height: 225, left: 56, right: 12, top: 12, bottom: 36 };
const N_COLOURS = 8;
const SMOOTH_FROM = 40;

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

// A number as short as it can be without lying: 12345, 0.0123, 1.2e-7.
function short(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(4)));
}

// Round numbers from low to high.
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const list = [];
  for (let at = Math.ceil(low / step); at * step <= high + 1e-9 * step; at += 1) list.push(at * step);
  return list;
}

// At each place along the panel the lowest and the highest point: looks the same, and a long run stays quick.
function thinned(points, place) {
  const kept = [];
  let column = [];
  const flush = () => {
    if (column.length <= 4) kept.push(...column);
    else {
      let low = column[0];
      let high = column[0];
      for (const point of column) {
        if (point[1] < low[1]) low = point;
        if (point[1] > high[1]) high = point;
      }
      const ends = new Set([column[0], low, high, column[column.length - 1]]);
      kept.push(...column.filter((point) => ends.has(point)));
    }
    column = [];
  };
  let at = null;
  for (const point of points) {
    const here = Math.round(place(point[0]));
    if (here !== at) flush();
    at = here;
    column.push(point);
  }
  flush();
  return kept;
}

// At each point the straight line that fits best a window of about a twentieth of all points: a running mean that does not
// lag at the ends.
function smoothed(points) {
  const half = Math.max(2, Math.floor(points.length / 40));
  const sums = [0];
  const moments = [0];
  points.forEach(([, value], i) => {
    sums.push(sums[i] + value);
    moments.push(moments[i] + i * value);
  });
  return points.map(([step], i) => {
    const from = Math.max(0, i - half);
    const to = Math.min(points.length, i + half + 1);
    const n = to - from;
    const centre = (from + to - 1) / 2;
    const sum = sums[to] - sums[from];
    const slope = (moments[to] - moments[from] - centre * sum) / ((n * (n * n - 1)) / 12);
    return [step, sum / n + slope * (i - centre)];
  });
}

// series: [{ label, colour, points: [[step, value], …] sorted by step }]
function panel(title, series, smooth) {
  const all = series.flatMap((line) => line.points);
  const steps = range(all.map((point) => point[0]), 0);
  const values = range(all.map((point) => point[1]), 0.05);
  const { width, height, left, right, top, bottom } = PANEL;
  const x = (step) => left + ((step - steps[0]) / (steps[1] - steps[0])) * (width - left - right);
  const y = (value) => height - bottom - ((value - values[0]) / (values[1] - values[0])) * (height - top - bottom);
  const last = series.map((line) => line.points[line.points.length - 1]);
  const words = series.map((line, i) => `${line.label} ends at ${short(last[i][1])} in step ${last[i][0]}`).join("; ");
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${words}`, class: "curve" });
  for (const value of ticks(values[0], values[1], 4)) {
    svg.append(draw("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "grid" }));
    svg.append(draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  for (const step of ticks(steps[0], steps[1], 5).filter(Number.isInteger)) {
    svg.append(draw("line", { x1: x(step), x2: x(step), y1: height - bottom, y2: height - bottom + 4, class: "grid" }));
    svg.append(draw("text", { x: x(step), y: height - bottom + 18, "text-anchor": "middle" }, String(step)));
  }
  svg.append(draw("text", { x: width - right, y: height - 4, "text-anchor": "end", class: "axis" }, "step"));
  for (const line of series) {
    const isLong = smooth && line.points.length >= SMOOTH_FROM;
    if (isLong) svg.append(path(line.points, x, y, `faint line-${line.colour}`));
    svg.append(path(isLong ? smoothed(line.points) : line.points, x, y, `line-${line.colour}`));
  }
  const reader = draw("g", { class: "reader" });
  svg.append(reader);
  const note = make("p", { class: "quiet small reading", "aria-hidden": "true" }, "\u00a0");
  svg.addEventListener("pointermove", (event) => read(event, svg, series, reader, note, { x, y, steps }));
  svg.addEventListener("pointerleave", () => {
    reader.replaceChildren();
    note.textContent = "\u00a0";
  });
  const legend = make("p", { class: "legend small" }, ...series.map((line, i) =>
    make("span", {}, swatch(line.colour), ` ${line.label} `, make("b", {}, short(last[i][1])))));
  return make("figure", { class: "card panel" }, make("figcaption", {}, make("b", {}, title)), svg, note, legend);
}

function swatch(colour) {
  return draw("svg", { viewBox: "0 0 26 8", class: "swatch", "aria-hidden": "true" },
    draw("path", { d: "M1 4H25", class: `line-${colour}` }));
}

function range(numbers, pad) {
  let low = Infinity;
  let high = -Infinity;
  for (const number of numbers) {
    if (number < low) low = number;
    if (number > high) high = number;
  }
  if (low === high) {
    const room = Math.abs(low) * 0.1 || 1;
    return [low - room, high + room];
  }
  return [low - pad * (high - low), high + pad * (high - low)];
}

function path(points, x, y, kind) {
  const places = thinned(points, x).map(([step, value]) => `${x(step).toFixed(1)} ${y(value).toFixed(1)}`);
  // A single point is a dot: a line without length, with round ends.
  const d = places.length === 1 ? `M${places[0]}h0.01` : `M${places.join("L")}`;
  return draw("path", { d, class: places.length === 1 ? `${kind} single` : kind });
}

// What the lines say at the pointer.
function read(event, svg, series, reader, note, { x, y, steps }) {
  const box = svg.getBoundingClientRect();
  const at = ((event.clientX - box.left) / box.width) * PANEL.width;
  const share = (at - PANEL.left) / (PANEL.width - PANEL.left - PANEL.right);
  const wanted = steps[0] + Math.min(1, Math.max(0, share)) * (steps[1] - steps[0]);
  const nearest = series.map((line) => nearestPoint(line.points, wanted));
  const step = nearest.reduce((best, point) => (Math.abs(point[0] - wanted) < Math.abs(best - wanted) ? point[0] : best), nearest[0][0]);
  reader.replaceChildren(
    draw("line", { x1: x(step), x2: x(step), y1: PANEL.top, y2: PANEL.height - PANEL.bottom, class: "cursor" }),
    ...nearest.map((point, i) => draw("circle", { cx: x(point[0]), cy: y(point[1]), r: 3.5, class: `dot-${series[i].colour}` })));
  note.textContent = `step ${step}: ${series.map((line, i) => `${line.label} ${short(nearest[i][1])}`).join(", ")}`;
}

function nearestPoint(points, step) {
  let low = 0;
  let high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < step) low = middle;
    else high = middle;
  }
  return Math.abs(points[low][0] - step) <= Math.abs(points[high][0] - step) ? points[low] : points[high];
}

// The numbers of one run, collected from the pieces of its log.
class RunLog {
  constructor() {
    this.reading = null; // the look that is under way
    this.forget();
  }

  forget() {
    this.next = 0;
    this.stages = new Map(); // stage → [first time, last time], in the order of the log
    this.scalars = new Map(); // name → stage → step → value
    this.changed = new Set(); // names with new points
    this.messages = [];
  }

  take(tail) {
    if (tail.restarted) this.forget();
    this.next = tail.next;
    for (const [stage, first, last] of tail.stages) {
      const known = this.stages.get(stage);
      this.stages.set(stage, [known ? known[0] : first, last]);
    }
    for (const [stage, names] of Object.entries(tail.scalars)) {
      for (const [name, points] of Object.entries(names)) {
        if (!this.scalars.has(name)) this.scalars.set(name, new Map());
        const stages = this.scalars.get(name);
        if (!stages.has(stage)) stages.set(stage, new Map());
        // A resumed stage tells a step twice; the last counts.
        for (const [step, value] of points) stages.get(stage).set(step, value);
        this.changed.add(name);
      }
    }
    this.messages.push(...tail.messages);
    this.messages.splice(0, Math.max(0, this.messages.length - 500));
  }

  series(name) {
    const order = [...this.stages.keys()];
    const stages = [...this.scalars.get(name).entries()];
    return stages.map(([stage, points]) => ({
      label: stage.replace(/^learn-/, ""),
      colour: order.indexOf(stage) % N_COLOURS,
      points: [...points.entries()].sort((a, b) => a[0] - b[0]),
    }));
  }
}
