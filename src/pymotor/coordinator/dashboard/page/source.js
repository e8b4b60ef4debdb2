// @ts-check
/** Asks the Coordinator. A key is kept by this tab alone and shown in headers: never in an address or a cookie. */

const PLACE = "pymotor-key";
const PATIENCE = 10_000;

export class Refused extends Error {
  /** @param {number} status @param {string} message @param {string} code */
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class Silent extends Error {}

export function storedKey() {
  return sessionStorage.getItem(PLACE) ?? "";
}

/** @param {string} key empty: forget it */
export function storeKey(key) {
  if (key) sessionStorage.setItem(PLACE, key);
  else sessionStorage.removeItem(PLACE);
}

/**
 * @param {string} path what comes after `dashboard/`
 * @returns {Promise<any>} raises `Refused` and `Silent`
 */
export async function ask(path) {
  const key = storedKey();
  /** @type {Record<string, string>} */
  const headers = key ? { Authorization: `Bearer ${key}`, "x-api-key": key } : {};
  let reply;
  try {
    reply = await fetch(`dashboard/${path}`, {
      headers,
      cache: "no-store",
      credentials: "same-origin",
      redirect: "error",
      signal: AbortSignal.timeout(PATIENCE),
    });
  } catch (error) {
    throw new Silent(String(error));
  }
  let body;
  try {
    body = await reply.json();
  } catch (error) {
    throw reply.ok ? new Silent(String(error)) : new Refused(reply.status, reply.statusText, "");
  }
  if (reply.ok) return body;
  const told = body?.error ?? {};
  throw new Refused(reply.status, String(told.message ?? reply.statusText), String(told.code ?? ""));
}
