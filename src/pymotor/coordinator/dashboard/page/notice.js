// @ts-check
/** Says in plain words what is wrong and what to do, and asks for a key where one is needed. */

import { byId, make, setAttribute, setText } from "./dom.js";
import { moment } from "./format.js";
import { Refused, storeKey, storedKey } from "./source.js";

const notice = byId("notice");
const state = byId("state");
const dialog = byId("ask");
let shown = "";
let dismissed = false;

/** @param {string} kind @param {string[]} lines */
function say(kind, lines) {
  const text = `${kind} ${lines.join("\n")}`;
  if (text === shown) return;
  shown = text;
  notice.hidden = !lines.length;
  notice.dataset.kind = kind;
  notice.replaceChildren(...lines.map((line) => make("p", { text: line })));
}

/** @param {any} fleet the newest answer */
export function sayFleet(fleet) {
  byId("key").hidden = !storedKey();
  const kind = !fleet.ready ? "bad" : fleet.degraded.length ? "warn" : "good";
  setAttribute(state, "data-kind", kind);
  setText(state, kind === "bad" ? "does not serve" : kind === "warn" ? "serves, degraded" : "serves");
  const lost = fleet.connected === false ? ["No Controller is heard; the fleet may have changed since."] : [];
  say(kind, [...fleet.missing, ...lost, ...fleet.degraded].map(sentence));
}

/** @param {unknown} error @param {number} heard when the Coordinator last answered, seconds since 1970; 0: never */
export function sayError(error, heard) {
  setAttribute(state, "data-kind", "bad");
  const old = heard ? [`What is shown is from ${moment(heard)}.`] : [];
  if (!(error instanceof Refused)) {
    setText(state, "no answer");
    say("bad", ["The Coordinator does not answer. See whether it runs: pymotor status.", ...old]);
    return;
  }
  if (error.status === 401 || (error.status === 403 && error.code === "insufficient_scope")) {
    setText(state, "closed");
    say("bad", ["This door is closed without a key that may read. Make one: pymotor api-key create --scope read.", ...old]);
    byId("key").hidden = false;
    if (!dismissed) askForKey(error);
    return;
  }
  if (error.status === 403) {
    setText(state, "closed");
    say("bad", [
      "This Coordinator answers only browsers on its own machine, by address or as localhost. Turn on api_key_config, or come through a tunnel: ssh -L.",
      ...old,
    ]);
    return;
  }
  setText(state, "error");
  say("bad", [`The Coordinator refuses (${error.status}): ${error.message}`, ...old]);
}

/** @param {Refused | null} error */
function askForKey(error) {
  if (dialog.open) {
    if (error !== null && error.code !== "missing_api_key") setText(byId("ask-why"), sentence(error.message));
    return;
  }
  setText(byId("ask-why"), error === null ? "" : sentence(error.message));
  byId("ask-key").value = "";
  dialog.showModal();
}

/** @param {() => void} retry */
export function followKey(retry) {
  byId("key").addEventListener("click", () => askForKey(null));
  byId("ask-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    storeKey(byId("ask-key").value.trim());
    byId("ask-key").value = "";
    dismissed = false;
    dialog.close();
    retry();
  });
  byId("ask-forget").addEventListener("click", () => {
    storeKey("");
    dismissed = true;
    dialog.close();
    retry();
  });
  dialog.addEventListener("cancel", () => {
    dismissed = true;
  });
}

/** @param {string} text */
function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
