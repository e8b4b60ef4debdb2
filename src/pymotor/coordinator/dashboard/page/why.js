// @ts-check
/** Why an endpoint got a leg: those that could have had it, with what was known of each at that moment. */

import { factsGrid, make } from "./dom.js";
import { bytes, count, seconds, words } from "./format.js";

const LEGS = { encode: "encode", prefill: "prefill", decode: "decode", union: "union" };
const WAITS = {
  receive: "Its body came in.",
  queue: "It waited for room at the engines.",
  placement: "Its tokens were counted, and it was asked who holds the prompt's beginning.",
  pause: "It waited before the next try.",
};
const BY = {
  affinity: "By what the endpoints hold of the prompt, beside their load.",
  load: "By load: the least loaded gets it.",
  locality: "By locality: decode near prefill, where the load allows it.",
  key: "By the request's session or prefix, within a bound on load.",
};

/** @param {any} step @param {any} found the whole timeline */
export function whyOf(step, found) {
  /** @type {[string, string][]} */
  const facts = [
    ["Sent after", seconds(step.sent)],
    ["First content after", seconds(step.content)],
    ["Ended after", seconds(step.ended)],
    ["Sent", bytes(step.request_bytes)],
  ];
  if (step.answer_bytes) facts.push(["Got", bytes(step.answer_bytes)]);
  if (step.status) facts.push(["HTTP status", String(step.status)]);
  if (step.item) facts.push(["Media item", step.item]);
  if (step.outcome) facts.push(["Failed", words(step.outcome)]);
  const waits = WAITS[/** @type {keyof typeof WAITS} */ (step.leg)];
  if (waits) {
    const waited = seconds((step.ended ?? found.seconds) - (step.began ?? 0));
    return [make("p", { class: "quiet", text: waits }), factsGrid([["Waited", waited]])];
  }
  const parts = [factsGrid(facts)];
  const placed = placement(step, found.placement);
  if (placed) parts.push(...placed);
  else if (step.why.length) parts.push(...byLoad(step.why));
  else if (step.leg in LEGS) parts.push(make("p", { class: "quiet", text: "Nobody else could have had it." }));
  return parts;
}

/** @param {any[]} candidates */
function byLoad(candidates) {
  const rows = candidates.map((one) => ({
    kind: one.chosen ? "chosen" : one.excluded ? "excluded" : "",
    cells: [one.chosen ? `✓ ${one.endpoint}` : one.endpoint, `${count(one.load_tokens)}`, one.excluded ? "failed it, or had no room" : one.chosen ? "chosen" : ""],
  }));
  return [make("p", { class: "quiet", text: "The endpoints that could have had it, with their load then:" }), table(["Endpoint", "Load, tokens", ""], rows)];
}

/** The decision that sent a leg to its endpoint, where more than load was looked at. @param {any} step @param {any} placement */
function placement(step, placement) {
  const leg = placement?.legs.findLast((/** @type {any} */ one) =>
    one.role === step.leg && one.endpoints.some((/** @type {any} */ each) => each.chosen && each.endpoint === step.endpoint));
  if (!leg) return null;
  const scored = leg.endpoints.some((/** @type {any} */ one) => "match_expected" in one || "match_any" in one);
  const rows = leg.endpoints.map((/** @type {any} */ one) => ({
    kind: one.chosen ? "chosen" : one.excluded ? "excluded" : "",
    cells: [
      one.chosen ? `✓ ${one.endpoint}` : one.endpoint,
      count(one.load),
      ...(scored ? [count(one.match_expected ?? one.match_any), count(one.prefill_cost), count(one.score)] : []),
      one.excluded ?? "",
    ],
  }));
  const names = ["Endpoint", "Load, tokens", ...(scored ? ["Match, tokens", "Left to compute", "Score"] : []), ""];
  const text = BY[/** @type {keyof typeof BY} */ (leg.by)] ?? words(leg.by);
  const bound = leg.highest_load === null ? "" : ` No endpoint above ${count(leg.highest_load)} tokens of load.`;
  return [make("p", { class: "quiet", text: `${text} Prompt ${count(placement.prompt_tokens)} tokens, found: ${words(placement.found)}.${bound}` }), table(names, rows)];
}

/** @param {string[]} names @param {{kind: string, cells: string[]}[]} rows */
function table(names, rows) {
  return make("table", {},
    make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col", text: name })))),
    make("tbody", {}, ...rows.map((row) => make("tr", { class: row.kind || null }, ...row.cells.map((cell) => make("td", { text: cell }))))));
}
