// @ts-check
/** Figures as people read them. What is not known is a dash. */

const NOTHING = "–";

/** @param {number | null | undefined} value */
export function count(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value < 10000) return String(Math.round(value));
  return value < 1e6 ? `${(value / 1000).toFixed(1)}k` : `${(value / 1e6).toFixed(1)}M`;
}

/** @param {number | null | undefined} value */
export function rate(value) {
  if (value === null || value === undefined) return NOTHING;
  return value < 10 ? value.toFixed(1) : count(value);
}

/** @param {number | null | undefined} value */
export function seconds(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value < 0.01) return `${(value * 1000).toFixed(1)} ms`;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 100) return `${value.toFixed(2)} s`;
  return `${Math.round(value)} s`;
}

/** @param {number | null | undefined} value */
export function part(value) {
  return value === null || value === undefined ? NOTHING : `${Math.round(value * 100)} %`;
}

/** @param {number | null | undefined} value */
export function bytes(value) {
  if (!value) return value === 0 ? "0 B" : NOTHING;
  if (value < 1000) return `${value} B`;
  return value < 1e6 ? `${(value / 1000).toFixed(1)} kB` : `${(value / 1e6).toFixed(1)} MB`;
}

/** Of the day, here. @param {number} since1970 */
export function moment(since1970) {
  return new Date(since1970 * 1000).toLocaleTimeString([], { hour12: false });
}

/** "1 instance", "3 instances". @param {number} number @param {string} noun */
export function counted(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** `client_gone` as words. @param {string} word */
export function words(word) {
  return word.replaceAll("_", " ");
}
