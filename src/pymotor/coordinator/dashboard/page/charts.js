// @ts-check
/** The last quarter of an hour as four small charts, drawn as SVG. */

import { drawn, make, setText } from "./dom.js";
import { count, moment, rate, seconds } from "./format.js";

const KEPT = 900;
const HEIGHT = 150;
const LEFT = 48;
const BOTTOM = 20;
const TOP = 6;
const MARKS = [-900, -600, -300, 0];

/**
 * @typedef {{time: number, requests_per_second: number, failed_per_second: number, first_token_p50: number | null,
 *   first_token_p95: number | null, tokens_per_second: number | null, queued: number, in_flight: number}} Point
 * @typedef {(point: Point) => number | null} Read
 * @typedef {{least: number, whole: boolean, said: (value: number) => string}} Scale where it ends at least, whether it
 *   and its half are whole numbers, and its figures in words
 */

/** @type {Scale} */
const RATES = { least: 0, whole: false, said: (value) => (value < 10 ? String(Number(value.toPrecision(2))) : count(value)) };
/** @type {Scale} */
const TIMES = { least: 0, whole: false, said: seconds };
/** @type {Scale} */
const COUNTS = { least: 2, whole: true, said: count };

/** @type {Chart[]} */
const charts = [];
/** @type {Point[]} */
let points = [];

class Chart {
  /** @param {string} title @param {string} unit @param {(value: number | null) => string} said @param {Scale} scale @param {[string, Read][]} lines */
  constructor(title, unit, said, scale, lines) {
    this.title = title;
    this.said = said;
    this.scale = scale;
    this.lines = lines;
    this.values = lines.map(() => make("b", { text: "–" }));
    this.legend = make("p", { class: "legend" });
    lines.forEach(([name], index) => {
      this.legend.append(make("span", {}, make("i", { class: index ? "two" : "one", "aria-hidden": "true" }), `${name} `, this.values[index]));
    });
    this.svg = drawn("svg", { role: "img" });
    this.at = make("span", { class: "quiet" });
    this.element = make("figure", { class: "chart" },
      make("header", {}, make("h3", { text: title }), make("span", { class: "quiet", text: unit }), this.at, this.legend), this.svg);
    this.element.style.margin = "0";
    this.width = 0;
    this.pointed = -1;
    new ResizeObserver(() => this.draw()).observe(this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(/** @type {PointerEvent} */ (event)));
    this.svg.addEventListener("pointerleave", () => {
      this.pointed = -1;
      this.draw();
    });
  }

  /** @param {PointerEvent} event */
  point(event) {
    const box = this.svg.getBoundingClientRect();
    this.pointed = (event.clientX - box.left - LEFT) / Math.max(1, box.width - LEFT - 4);
    this.draw();
  }

  draw() {
    this.width = this.svg.clientWidth;
    if (!this.width) return;
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    const now = points.at(-1)?.time ?? 0;
    const known = points.flatMap((point) => this.lines.map(([, read]) => read(point))).filter((value) => value !== null);
    const top = ceiling(Math.max(this.scale.least, ...known), this.scale.whole);
    /** @param {number} time */
    const x = (time) => LEFT + ((time - now + KEPT) / KEPT) * (this.width - LEFT - 4);
    /** @param {number} value */
    const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    this.svg.replaceChildren();
    for (const part of [0, 0.5, 1]) {
      this.svg.append(drawn("line", { class: "grid", x1: LEFT, x2: this.width - 4, y1: y(part * top), y2: y(part * top) }));
      const label = drawn("text", { x: LEFT - 6, y: y(part * top) + 4, "text-anchor": "end" });
      label.textContent = known.length ? (part ? this.scale.said(part * top) : "0") : "";
      this.svg.append(label);
    }
    MARKS.forEach((mark, index) => {
      const anchor = index === 0 ? "start" : index === MARKS.length - 1 ? "end" : "middle";
      const label = drawn("text", { x: x(now + mark), y: HEIGHT - 4, "text-anchor": anchor });
      label.textContent = mark ? `${mark / 60} min` : "now";
      this.svg.append(label);
    });
    if (!known.length) {
      const middle = (LEFT + this.width) / 2;
      const words = drawn("text", { class: "nothing", x: middle, y: y(top / 2) - 6, "text-anchor": "middle" });
      words.textContent = "nothing measured yet";
      this.svg.append(words);
    }
    this.lines.forEach(([, read], index) => {
      const path = pathOf(points, read, x, y);
      if (!index && path) this.svg.append(drawn("path", { class: "under", d: under(path, y(0)) }));
      this.svg.append(drawn("path", { class: index ? "two" : "one", d: path }));
    });
    this.tell(x, now);
  }

  /** @param {(time: number) => number} x @param {number} now */
  tell(x, now) {
    let shown = points.at(-1);
    setText(this.at, "");
    if (this.pointed >= 0 && points.length) {
      const time = now - KEPT + this.pointed * KEPT;
      const near = points.reduce((best, one) => (Math.abs(one.time - time) < Math.abs(best.time - time) ? one : best));
      shown = near;
      this.svg.append(drawn("line", { class: "cross", x1: x(near.time), x2: x(near.time), y1: TOP, y2: HEIGHT - BOTTOM }));
      setText(this.at, `at ${moment(near.time)}`);
    }
    const told = this.lines.map(([name, read], index) => {
      const value = this.said(shown ? read(shown) : null);
      setText(this.values[index], value);
      return `${name} ${value}`;
    });
    this.svg.setAttribute("aria-label", `${this.title} over the last 15 minutes; now ${told.join(", ")}`);
  }
}

/** The lines break where nothing is known. @param {Point[]} some @param {Read} read @param {(t: number) => number} x @param {(v: number) => number} y */
function pathOf(some, read, x, y) {
  let path = "";
  let known = false;
  let before = 0;
  for (const point of some) {
    const value = read(point);
    if (value === null) {
      known = false;
      continue;
    }
    const joined = known && point.time - before < 30;
    path += `${joined ? "L" : "M"}${x(point.time).toFixed(1)} ${y(value).toFixed(1)}`;
    if (!joined) path += "h.1";
    known = true;
    before = point.time;
  }
  return path;
}

/** The area below the pieces of a line. @param {string} path @param {number} ground */
function under(path, ground) {
  return path
    .split("M")
    .filter(Boolean)
    .map((piece) => {
      const steps = piece.replace("h.1", "").split("L");
      const first = steps[0].split(" ")[0];
      const last = steps[steps.length - 1].split(" ")[0];
      return `M${first} ${ground}L${steps.join("L")}L${last} ${ground}Z`;
    })
    .join("");
}

/** The next round number. @param {number} value @param {boolean} whole whether its half is to be a whole number */
function ceiling(value, whole) {
  if (value <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  const fits = [1, 1.5, 2, 3, 4, 5, 6, 8, 10].filter((factor) => !whole || (factor * unit) % 2 === 0);
  const found = fits.find((factor) => factor * unit >= value * 0.999);
  return (found ?? 10) * unit;
}

/** @param {HTMLElement} place */
export function buildCharts(place) {
  charts.push(
    new Chart("Requests", "per second", rate, RATES, [["all", (point) => point.requests_per_second], ["failed", (point) => point.failed_per_second]]),
    new Chart("Time to first token", "", seconds, TIMES, [["p50", (point) => point.first_token_p50], ["p95", (point) => point.first_token_p95]]),
    new Chart("Tokens written", "per second", count, COUNTS, [["engines", (point) => point.tokens_per_second]]),
    new Chart("Legs in flight and queue", "", count, COUNTS, [["in flight", (point) => point.in_flight], ["queue", (point) => point.queued]]),
  );
  place.append(...charts.map((chart) => chart.element));
}

/**
 * Takes the points that came since the last time.
 * @param {Point[]} newer
 * @returns {(() => void)[]} what draws them, chart by chart
 */
export function showSeries(newer) {
  if (!newer.length) return [];
  const oldest = newer[newer.length - 1].time - KEPT;
  points = [...points, ...newer].filter((point) => point.time >= oldest);
  return charts.map((chart) => () => chart.draw());
}
