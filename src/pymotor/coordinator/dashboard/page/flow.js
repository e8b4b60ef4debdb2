// @ts-check
/** Requests on their way from lane to lane: a few dots, more of them where more goes through. They stand still for
 * whoever wants less motion, and while the page is hidden. */

const CROSSING = 1600;
/** Milliseconds between two pictures: dots this slow need no more of them. */
const PAUSE = 30;
const MOST = 14;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** @type {Set<Flow>} */
const flows = new Set();
let drawing = 0;
let drawnAt = 0;

export class Flow {
  /** @param {string} to role of the lane @param {boolean} back whether that one stands before, not after */
  constructor(to, back) {
    this.to = to;
    this.back = back;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "flow";
    this.canvas.setAttribute("aria-hidden", "true");
    this.context = this.canvas.getContext("2d");
    this.rate = 0;
    this.width = 0;
    this.height = 0;
    this.colour = "#888";
    this.line = "#ccc";
    flows.add(this);
    new ResizeObserver(() => this.fit()).observe(this.canvas);
  }

  fit() {
    const ratio = devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.context?.setTransform(ratio, 0, 0, ratio, 0, 0);
    const style = getComputedStyle(document.documentElement);
    this.colour = style.getPropertyValue(`--${this.to}`).trim() || this.colour;
    this.line = style.getPropertyValue("--line").trim() || this.line;
    this.draw(0);
  }

  /** @param {number} now milliseconds */
  draw(now) {
    const context = this.context;
    if (!context || !this.width) return;
    context.clearRect(0, 0, this.width, this.height);
    const across = this.width < this.height || this.height > 60;
    const [length, breadth] = across ? [this.width, this.height] : [this.height, this.width];
    const rows = 3;
    context.strokeStyle = this.line;
    context.lineWidth = 1;
    context.fillStyle = this.colour;
    const middle = Math.min(breadth / 2, across ? 90 : breadth / 2);
    for (let row = 0; row < rows; row += 1) {
      const side = middle + (row - 1) * 12;
      context.beginPath();
      if (across) {
        context.moveTo(4, side);
        context.lineTo(length - 4, side);
      } else {
        context.moveTo(side, 2);
        context.lineTo(side, length - 2);
      }
      context.stroke();
    }
    const dots = this.rate > 0 ? Math.min(MOST, Math.max(1, Math.round(Math.sqrt(this.rate) * 2))) : 0;
    for (let dot = 0; dot < dots; dot += 1) {
      const phase = ((now / CROSSING + dot / dots + (dot % rows) * 0.11) % 1 + 1) % 1;
      const along = 4 + (this.back ? 1 - phase : phase) * (length - 8);
      const side = middle + ((dot % rows) - 1) * 12;
      context.globalAlpha = Math.min(1, 5 * phase, 5 * (1 - phase));
      context.beginPath();
      context.arc(across ? along : side, across ? side : along, 2.6, 0, 2 * Math.PI);
      context.fill();
    }
    context.globalAlpha = 1;
  }
}

/**
 * @param {any} fleet
 * @param {Record<string, number>} shares of requests that have a leg of a role, 0 to 1
 */
export function setFlows(fleet, shares) {
  for (const flow of flows) {
    if (!flow.canvas.isConnected) {
      flows.delete(flow);
      continue;
    }
    const before = flow.rate;
    flow.rate = fleet.requests_per_second * (shares[flow.to] ?? 0);
    if (before && !flow.rate) flow.draw(0);
  }
  wake();
}

function wake() {
  const moving = [...flows].some((flow) => flow.rate > 0);
  if (calm.matches || document.hidden || !moving) {
    for (const flow of flows) flow.draw(0);
    return;
  }
  if (!drawing) drawing = requestAnimationFrame(step);
}

/** @param {number} now */
function step(now) {
  drawing = 0;
  if (calm.matches || document.hidden) return;
  const due = now - drawnAt >= PAUSE;
  if (due) drawnAt = now;
  let moving = false;
  for (const flow of flows) {
    if (due && flow.rate > 0) flow.draw(now);
    moving ||= flow.rate > 0;
  }
  if (moving) drawing = requestAnimationFrame(step);
}

document.addEventListener("visibilitychange", wake);
document.addEventListener("themechange", () => {
  for (const flow of flows) flow.fit();
});
