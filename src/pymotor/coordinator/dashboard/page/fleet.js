// @ts-check
/** The fleet as lanes with a tile for each instance. Of a tile only what has changed is written. */

import { byId, factsGrid, make, setAttribute, setText } from "./dom.js";
import { count, counted, part, rate } from "./format.js";
import { Flow } from "./flow.js";

const ROLES = ["encode", "prefill", "decode", "union"];
const NAMES = { encode: "Encode", prefill: "Prefill", decode: "Decode", union: "Union" };
/** From so many instances on tiles are small. */
const DENSE = 48;

class Tile {
  /** @param {string} name */
  constructor(name) {
    this.name = make("span", { class: "name", text: name });
    this.facts = make("span", { class: "facts" });
    this.load = make("span", { class: "fill" });
    this.kv = make("span", { class: "fill" });
    this.element = make(
      "button",
      { type: "button", class: "tile", "aria-pressed": "false", tabindex: -1 },
      this.name,
      make("span", { class: "sign", "aria-hidden": "true" }),
      make("span", { class: "track" }, this.load),
      make("span", { class: "track kv" }, this.kv),
      this.facts,
    );
    for (const track of this.element.querySelectorAll(".track")) track.setAttribute("aria-hidden", "true");
    this.element.dataset.name = name;
    /** What was written last. */
    this.before = "";
  }

  /** @param {any} instance @param {number} most the lane's greatest load @param {boolean} dense */
  show(instance, most, dense) {
    const load = most ? Math.round((instance.load_tokens / most) * 50) / 50 : 0;
    const kv = Math.round((instance.kv_usage ?? 0) * 50) / 50;
    const waits = instance.waiting ?? 0;
    const now = `${instance.state} ${load} ${kv} ${instance.in_flight} ${waits} ${dense}`;
    if (now === this.before) return;
    this.before = now;
    const scale = dense ? "scaleY" : "scaleX";
    this.load.style.transform = `${scale}(${load})`;
    this.kv.style.transform = `${scale}(${kv})`;
    setAttribute(this.element, "data-state", instance.state);
    setAttribute(this.facts, "data-waits", String(waits > 0));
    const queue = waits ? `, ${waits} wait` : "";
    setText(this.facts, `${instance.in_flight} in flight${queue}`);
    const words = `${instance.name}, ${instance.state}, ${instance.in_flight} in flight${queue}, load ${count(instance.load_tokens)} tokens, KV cache ${part(instance.kv_usage)}`;
    setAttribute(this.element, "aria-label", words);
    setAttribute(this.element, "title", words);
  }
}

class Lane {
  /** @param {string} role */
  constructor(role) {
    this.role = role;
    this.sum = make("p");
    this.tiles = make("div", { class: "tiles", role: "group", "aria-label": `${NAMES[role]} instances` });
    this.element = make("section", { class: "lane grow", "data-role": role, "aria-label": NAMES[role] },
      make("header", {}, make("h3", { text: NAMES[role] }), this.sum), this.tiles);
    /** @type {Map<string, Tile>} */
    this.known = new Map();
    this.order = "";
    this.tiles.addEventListener("keydown", (event) => this.move(event));
  }

  /** @param {any[]} instances @param {boolean} dense */
  show(instances, dense) {
    this.tiles.classList.toggle("dense", dense);
    const columns = Math.max(1, Math.ceil(Math.sqrt(instances.length)));
    this.element.style.setProperty("--weight", String(dense ? columns : Math.min(2, columns)));
    const order = instances.map((one) => one.name).join("\n");
    if (order !== this.order) this.arrange(instances, order);
    const most = instances.reduce((greatest, one) => Math.max(greatest, one.load_tokens), 0);
    let serving = 0;
    let flight = 0;
    for (const instance of instances) {
      this.known.get(instance.name)?.show(instance, most, dense);
      serving += instance.state === "active" ? 1 : 0;
      flight += instance.in_flight;
    }
    setText(this.sum, `${serving}/${instances.length} active · ${count(flight)} in flight`);
  }

  /** @param {any[]} instances @param {string} order */
  arrange(instances, order) {
    this.order = order;
    const focused = document.activeElement;
    const former = this.known;
    this.known = new Map(instances.map((one) => [one.name, former.get(one.name) ?? new Tile(one.name)]));
    const tiles = [...this.known.values()].map((tile) => tile.element);
    this.tiles.replaceChildren(...tiles);
    if (focused instanceof HTMLElement && tiles.includes(focused)) focused.focus();
    if (!tiles.some((tile) => tile.tabIndex === 0) && tiles.length) tiles[0].tabIndex = 0;
  }

  /** Arrow keys go from tile to tile; Tab leaves the lane. @param {KeyboardEvent} event */
  move(event) {
    const tiles = /** @type {HTMLElement[]} */ ([...this.tiles.children]);
    const at = tiles.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    const width = tiles.findIndex((tile) => tile.offsetTop !== tiles[0].offsetTop);
    const row = width < 0 ? tiles.length : width;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row, Home: -at, End: tiles.length - 1 - at };
    const step = steps[/** @type {keyof typeof steps} */ (event.key)];
    const next = step === undefined || at < 0 ? undefined : tiles[at + step];
    if (!next) return;
    event.preventDefault();
    tiles[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

/** @type {Map<string, Lane>} */
const lanes = new Map();
const queued = make("dd", { class: "big", text: "–" });
const arriving = make("dd", { text: "–" });
const queue = make("section", { class: "lane queue", "data-role": "queue", "aria-label": "Clients" },
  make("header", {}, make("h3", { text: "Clients" })),
  make("dl", {}, make("div", {}, make("dt", { text: "queued" }), queued), make("div", {}, make("dt", { text: "requests/s" }), arriving)));
let shape = "";
let chosen = "";

/** @param {any} fleet */
export function showFleet(fleet) {
  const roles = ROLES.filter((role) => fleet.instances.some((/** @type {any} */ one) => one.role === role));
  if (roles.join() !== shape) arrange(roles);
  const dense = fleet.instances.length > DENSE;
  for (const role of roles) {
    lanes.get(role)?.show(fleet.instances.filter((/** @type {any} */ one) => one.role === role), dense);
  }
  setText(queued, count(fleet.queued));
  setText(arriving, rate(fleet.requests_per_second));
  const active = fleet.instances.filter((/** @type {any} */ one) => one.state === "active").length;
  setText(byId("fleet-sum"), `${counted(fleet.instances.length, "instance")}, ${active} active`);
  showInstance(fleet);
}

/** @param {string[]} roles */
function arrange(roles) {
  shape = roles.join();
  const parts = /** @type {HTMLElement[]} */ ([queue]);
  for (const role of roles) {
    const lane = lanes.get(role) ?? new Lane(role);
    lanes.set(role, lane);
    // Union engines take requests as they come, so they stand on the clients' other side where there are stages.
    if (role === "union" && roles.length > 1) parts.unshift(lane.element, new Flow(role, true).canvas);
    else parts.push(new Flow(role, false).canvas, lane.element);
  }
  if (!roles.length) parts.push(make("p", { class: "quiet", text: "No instance is known yet." }));
  byId("lanes").replaceChildren(...parts);
}

byId("lanes").addEventListener("click", (/** @type {Event} */ event) => {
  const tile = event.target instanceof Element ? event.target.closest(".tile") : null;
  if (!(tile instanceof HTMLElement)) return;
  choose(tile.dataset.name === chosen ? "" : tile.dataset.name ?? "");
});

/** @type {any} */
let newest = null;

/** @param {string} name */
function choose(name) {
  for (const tile of document.querySelectorAll(".tile")) {
    const pressed = String(tile instanceof HTMLElement && tile.dataset.name === name);
    setAttribute(tile, "aria-pressed", pressed);
  }
  chosen = name;
  showInstance(newest);
}

/** @param {any} fleet */
function showInstance(fleet) {
  newest = fleet;
  const panel = byId("instance");
  const found = chosen && fleet.instances.find((/** @type {any} */ one) => one.name === chosen);
  panel.hidden = !found;
  if (!found) return;
  const close = make("button", { type: "button", class: "plain", text: "Close" });
  close.addEventListener("click", () => choose(""));
  const kept = document.activeElement !== null && panel.contains(document.activeElement);
  panel.replaceChildren(
    make("div", { class: "panel-head" }, make("h3", { text: found.name }),
      make("span", { class: "quiet", text: `${found.role}, ${found.state}` }), close),
    factsGrid([
      ["In flight", count(found.in_flight)],
      ["Load", `${count(found.load_tokens)} tokens`],
      ["Running", count(found.running)],
      ["Waiting", count(found.waiting)],
      ["KV cache", part(found.kv_usage)],
      ["Endpoints", found.endpoints.slice(0, 8).map((/** @type {any} */ one) => `${one.id} ${one.state}`).join(", ") || "–"],
      ["Engine", `${found.engine} ${found.engine_version}`.trim() || "–"],
      ["Models", found.models.join(", ") || "–"],
    ]),
  );
  if (found.fault) panel.append(make("p", { class: "fault", text: found.fault }));
  if (kept) close.focus();
}
