// @ts-check
/** One request step by step: its legs over time, and why each endpoint was chosen. */

import { byId, factsGrid, make, setAttribute } from "./dom.js";
import { bytes, count, moment, seconds, words } from "./format.js";
import { ask } from "./source.js";
import { whyOf } from "./why.js";

const MARKS = 5;
let asked = "";

export function closeTimeline() {
  asked = "";
  byId("timeline").hidden = true;
}

/** @param {string} id @param {() => void} close */
export async function openTimeline(id, close) {
  asked = id;
  const panel = byId("timeline");
  panel.hidden = false;
  panel.replaceChildren(make("p", { class: "quiet", text: "Asking the workers …" }));
  let found;
  try {
    found = await ask(`requests/${encodeURIComponent(id)}`);
  } catch (error) {
    if (asked === id) panel.replaceChildren(head("Request", close), make("p", { class: "quiet", text: error instanceof Error ? error.message : "" }));
    return;
  }
  if (asked !== id) return;
  panel.replaceChildren(head(`Request of ${moment(found.ended - found.seconds)}`, close), facts(found));
  if (found.steps.length) panel.append(gantt(found), legend());
  else panel.append(make("p", { class: "quiet", text: "This request was not followed step by step; the legs in short: " + (found.legs.map((/** @type {any} */ leg) => `${leg.leg} at ${leg.instance} ${seconds(leg.seconds)}`).join(", ") || "none did its part") + "." }));
  panel.focus({ preventScroll: true });
  if (panel.getBoundingClientRect().top > innerHeight - 120) panel.scrollIntoView({ block: "nearest" });
}

/** @param {string} title @param {() => void} close */
function head(title, close) {
  const button = make("button", { type: "button", class: "plain", text: "Close" });
  button.addEventListener("click", close);
  return make("div", { class: "panel-head" }, make("h3", { text: title }), button);
}

/** @param {any} found */
function facts(found) {
  const reason = found.reason ? `, ${words(found.reason)}` : "";
  const size = found.answer_events ? `${count(found.answer_events)} events` : bytes(found.answer_bytes);
  return factsGrid([
    ["Outcome", `${words(found.outcome)} ${found.status}${reason}`],
    ["First token", seconds(found.first_token_seconds)],
    ["Whole", seconds(found.seconds)],
    ["Request", bytes(found.request_bytes) + (found.media_items ? `, ${found.media_items} media` : "")],
    ["Answer", size + (found.stream ? ", streamed" : "")],
    ["Path", found.path],
    ["Model", found.model || "–"],
    ["Client's id", found.request_id || "–"],
    ["Engines' id", found.engine_request_id || "–"],
    ["Failed it", found.spared.join(", ") || "no endpoint"],
  ]);
}

/** @param {any} found */
function gantt(found) {
  const whole = Math.max(found.seconds, ...found.steps.map((/** @type {any} */ step) => step.ended ?? 0), 1e-6);
  const axis = make("div", { class: "axis", "aria-hidden": "true" });
  for (let mark = 0; mark < MARKS; mark += 1) {
    const label = make("span", { text: mark ? seconds((whole * mark) / (MARKS - 1)) : "0" });
    label.style.left = `${(100 * mark) / (MARKS - 1)}%`;
    axis.append(label);
  }
  const grid = make("div", { class: "gantt", role: "group", "aria-label": "Steps over time" }, make("span"), axis, make("span"));
  found.steps.forEach((/** @type {any} */ step, /** @type {number} */ index) => {
    const before = found.steps.slice(0, index).filter((/** @type {any} */ one) => one.leg === step.leg && one.item === step.item && one.outcome);
    grid.append(...row(step, whole, before.length, found));
  });
  return grid;
}

/** @param {any} step @param {number} whole @param {number} tries @param {any} found */
function row(step, whole, tries, found) {
  const why = make("div", { class: "why", hidden: true });
  const again = tries ? `, try ${tries + 1}` : "";
  const label = make("button", { type: "button", class: "label", "aria-expanded": "false", "data-leg": step.leg },
    make("b", { text: step.leg + again }), make("span", { text: step.endpoint || "a wait" }));
  label.title = step.endpoint;
  label.addEventListener("click", () => {
    why.hidden = !why.hidden;
    setAttribute(label, "aria-expanded", String(!why.hidden));
    if (!why.hidden && !why.hasChildNodes()) why.append(...whyOf(step, found));
  });
  const bar = make("div", { class: "lane-bar", "data-leg": step.leg, role: "img", "aria-label": spoken(step) });
  const end = step.ended ?? whole;
  const began = step.began ?? 0;
  /** @param {number | null} from @param {number | null} to @param {string} kind */
  const piece = (from, to, kind) => {
    if (from === null || to === null || to < from) return;
    const part = make("span", { class: kind });
    part.style.left = `${(100 * from) / whole}%`;
    part.style.width = `${(100 * (to - from)) / whole}%`;
    bar.append(part);
  };
  if (step.outcome) {
    piece(began, end, "bar failed");
  } else if (!step.endpoint) {
    piece(began, end, "bar wait");
  } else {
    piece(began, step.sent ?? end, "bar wait");
    if (step.sent !== null) piece(step.sent, step.content ?? end, step.content === null ? "bar" : "bar first");
    if (step.content !== null) piece(step.content, end, "bar");
  }
  const given = handedOver(step, found.steps);
  if (given !== null) piece(given, step.content, "handoff");
  const took = make("div", { class: "took", text: seconds(end - began) });
  if (step.outcome) took.append(make("small", { text: words(step.outcome) }));
  return [label, bar, took, why];
}

/** When prefill had done its part for this decode leg; null where there is nothing to hand over. @param {any} step @param {any[]} steps */
function handedOver(step, steps) {
  if (step.leg !== "decode" || step.content === null) return null;
  const ends = steps.filter((one) => one.leg === "prefill" && !one.outcome && one.ended !== null && one.ended <= step.content);
  return ends.length ? Math.max(...ends.map((one) => one.ended)) : null;
}

/** @param {any} step */
function spoken(step) {
  const end = step.outcome ? `failed: ${words(step.outcome)}` : "did its part";
  return `${step.leg} ${step.endpoint}: from ${seconds(step.began)} to ${seconds(step.ended)}, first content ${seconds(step.content)}, ${end}`;
}

function legend() {
  /** @param {string} kind @param {string} text */
  const key = (kind, text) => make("span", {}, make("i", { class: kind, "aria-hidden": "true" }), text);
  return make("p", { class: "key-line" }, key("wait", "before it was sent"), key("first", "until its first content"),
    key("", "until its end"), key("hand", "handoff"), make("span", { text: "Choose a leg to see why its endpoint got it." }));
}
