// @ts-check
/** The table of requests that are over. */

import { byId, make, setAttribute, setText } from "./dom.js";
import { counted, moment, seconds, words } from "./format.js";
import { closeTimeline, openTimeline } from "./timeline.js";

const KEPT = 400;
const SHOWN = 120;
/** Part of the listed that is not slow. */
const USUAL = 0.9;

/** @type {Map<string, any>} */
let known = new Map();
let filter = "all";
let search = "";
let chosen = "";
let shown = "";

const COLUMNS = [
  ["Ended", ""],
  ["Outcome", ""],
  ["Path", "wide"],
  ["Model", "wide"],
  ["First token", "number mid"],
  ["Whole", "number"],
  ["Legs", ""],
  ["Way", "mid cut way"],
];

const body = make("tbody");

export function followRequests() {
  const head = make("tr", {}, ...COLUMNS.map(([name, kind]) => make("th", { scope: "col", class: kind, text: name })));
  byId("requests").append(make("table", { "aria-label": "Requests that are over, the newest first" }, make("thead", {}, head), body));
  for (const input of byId("filter").querySelectorAll("input")) {
    input.addEventListener("change", () => {
      filter = input.value;
      draw();
    });
  }
  byId("search").addEventListener("input", () => {
    search = byId("search").value.trim().toLowerCase();
    draw();
  });
  body.addEventListener("click", (event) => {
    const row = event.target instanceof Element ? event.target.closest("tr[data-id]") : null;
    if (row instanceof HTMLElement && row.dataset.id) choose(row.dataset.id);
  });
}

/** @param {any[]} newer */
export function showRequests(newer) {
  let changed = false;
  for (const one of newer) {
    changed ||= !known.has(one.id);
    known.set(one.id, one);
  }
  if (changed) {
    const sorted = [...known.values()].sort((one, other) => other.ended - one.ended);
    const kept = sorted.slice(0, KEPT);
    known = new Map(kept.map((one) => [one.id, one]));
  }
  if (changed || !shown) draw();
}

/** How many of the listed requests had a leg of each role, as a part of all; all of them without any. */
export function requestShares() {
  const newest = [...known.values()].slice(0, 60);
  /** @type {Record<string, number>} */
  const shares = {};
  for (const role of ["encode", "prefill", "decode", "union"]) {
    const having = newest.filter((one) => one.legs.some((/** @type {any} */ leg) => leg.leg === role)).length;
    shares[role] = newest.length ? having / newest.length : 0;
  }
  return shares;
}

function matching() {
  const all = [...known.values()];
  const times = all.map((one) => one.seconds).sort((one, other) => one - other);
  const slow = times[Math.floor(times.length * USUAL)] ?? 0;
  return all.filter((one) => {
    if (filter === "failed" && one.outcome === "answered") return false;
    if (filter === "slow" && one.seconds < slow) return false;
    if (filter === "retried" && !one.tries) return false;
    return !search || textOf(one).includes(search);
  });
}

/** @param {any} one */
function textOf(one) {
  const legs = one.legs.map((/** @type {any} */ leg) => `${leg.leg} ${leg.instance} ${leg.outcome}`).join(" ");
  return `${one.id} ${one.request_id} ${one.engine_request_id} ${one.path} ${one.model} ${one.status} ${one.outcome} ${one.reason} ${legs}`.toLowerCase();
}

function draw() {
  const found = matching();
  const rows = found.slice(0, SHOWN);
  const now = `${filter} ${search} ${rows.map((one) => one.id).join()}`;
  if (now === shown) return;
  shown = now;
  const more = found.length > rows.length ? `, the newest ${rows.length} shown` : "";
  setText(byId("requests-sum"), `${counted(found.length, "request")} of ${known.size} kept${more}`);
  const focused = document.activeElement?.closest("tr")?.getAttribute("data-id");
  /** @type {Map<string | null, HTMLElement>} */
  const former = new Map([...body.querySelectorAll("tr")].map((row) => [row.getAttribute("data-id"), row]));
  body.replaceChildren(...rows.map((one) => former.get(one.id) ?? rowOf(one)));
  if (!rows.length) {
    const text = known.size ? "No request is like that." : "No request is over yet. Send one, and its way is shown here.";
    body.append(make("tr", {}, make("td", { class: "nothing", colspan: COLUMNS.length, text })));
  }
  mark();
  const again = focused && body.querySelector(`tr[data-id="${CSS.escape(focused)}"] .open`);
  if (again instanceof HTMLElement && document.activeElement !== again) again.focus();
}

/** @param {any} one */
function rowOf(one) {
  const outcome = make("span", { class: "outcome", "data-kind": one.outcome, text: `${words(one.outcome)} ${one.status}` });
  if (one.reason) outcome.title = one.reason;
  const strip = make("span", { class: "strip", "aria-hidden": "true" });
  for (const leg of one.legs.slice(0, 24)) {
    const piece = make("span", { "data-leg": leg.leg, "data-failed": Boolean(leg.outcome), title: `${leg.leg} ${leg.instance} ${seconds(leg.seconds)}` });
    piece.style.flexGrow = String(Math.max(0.001, leg.seconds));
    strip.append(piece);
  }
  const way = one.legs.map((/** @type {any} */ leg) => leg.instance || leg.leg).join(" → ");
  const open = make("button", { type: "button", class: "open", text: moment(one.ended), "aria-label": `Timeline of the request that ended at ${moment(one.ended)}` });
  return make("tr", { "data-id": one.id },
    make("td", {}, open),
    make("td", {}, outcome),
    make("td", { class: "wide", text: one.path }),
    make("td", { class: "wide cut", text: one.model, title: one.model }),
    make("td", { class: "number mid", text: seconds(one.first_token_seconds) }),
    make("td", { class: "number", text: seconds(one.seconds) }),
    make("td", {}, strip),
    make("td", { class: "mid cut way", text: way, title: way }));
}

/** @param {string} id */
function choose(id) {
  chosen = id === chosen ? "" : id;
  mark();
  byId("timeline").parentElement.classList.toggle("open", Boolean(chosen));
  if (chosen) openTimeline(chosen, () => choose(chosen));
  else closeTimeline();
}

function mark() {
  for (const row of body.querySelectorAll("tr")) {
    setAttribute(row, "aria-selected", String(Boolean(chosen) && row.getAttribute("data-id") === chosen));
  }
}
