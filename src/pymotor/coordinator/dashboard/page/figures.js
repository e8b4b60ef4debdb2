// @ts-check
/** The row of large figures. */

import { byId, make, setAttribute, setText } from "./dom.js";
import { count, rate, seconds } from "./format.js";

/** @type {[string, string][]} */
const NAMES = [
  ["requests", "Requests"],
  ["first", "Time to first token"],
  ["tokens", "Tokens written"],
  ["flight", "In flight"],
  ["queued", "Queue"],
  ["load", "Load"],
];

/** @type {Record<string, {value: Text, unit: HTMLElement, more: HTMLElement}>} */
const cells = {};

export function buildFigures() {
  for (const [id, name] of NAMES) {
    const value = document.createTextNode("–");
    const unit = make("small");
    const more = make("p", { class: "more", text: "\u00a0" });
    cells[id] = { value, unit, more };
    byId("figures").append(
      make("div", { class: "figure", id: `figure-${id}` }, make("p", { class: "name", text: name }),
        make("p", { class: "value" }, value, unit), more),
    );
  }
}

/** @param {string} id @param {string} value @param {string} unit @param {string} more @param {string} [kind] */
function set(id, value, unit, more, kind = "") {
  const cell = cells[id];
  if (cell.value.data !== value) cell.value.data = value;
  setText(cell.unit, unit);
  setText(cell.more, more || "\u00a0");
  setAttribute(cell.more, "data-kind", kind);
}

/** @param {any} fleet */
export function showFigures(fleet) {
  const failed = fleet.failed_per_second;
  set("requests", rate(fleet.requests_per_second), "/s", failed ? `✕ ${rate(failed)} failed/s` : "none failed", failed ? "bad" : "");
  const [value, unit] = split(seconds(fleet.first_token_p50));
  set("first", value, unit, `p95 ${seconds(fleet.first_token_p95)}`);
  set("tokens", fleet.tokens_per_second === null ? "–" : count(fleet.tokens_per_second), "/s", "by the engines");
  set("flight", count(fleet.in_flight), "", "legs at engines");
  set("queued", count(fleet.queued), "", fleet.queued ? "wait for room" : "nobody waits");
  set("load", count(fleet.load_tokens), "tokens", "charged to endpoints");
}

/** @param {string} text @returns {[string, string]} */
function split(text) {
  const at = text.indexOf(" ");
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}
