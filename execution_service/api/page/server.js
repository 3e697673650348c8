// Asks the service. Every question ends in bounded time, and every refusal is told as the service words it.

const ANSWER_SECONDS = 8;
const ACTION_SECONDS = 35;

/** The service has answered, and says no. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `the service answered ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

/** Nobody answered: it is not known whether what was asked has been done. */
export class Unreachable extends Error {}

const tags = new Map();
let ahead = 0;
let onLoggedOut = () => {};

export function whenLoggedOut(listener) {
  onLoggedOut = listener;
}

/** The service's clock, as near as its answers tell it, in milliseconds. */
export function now() {
  return Date.now() + ahead;
}

/** What is there. */
export async function get(path) {
  return (await poll(path, { always: true })).body;
}

/** What is there, and how old it is, in seconds; a body of null: nothing has changed since the last time. */
export async function poll(path, { always = false } = {}) {
  const tag = always ? undefined : tags.get(path);
  const response = await asked(path, { headers: tag ? { "If-None-Match": tag } : {} }, ANSWER_SECONDS);
  const age = Number(response.headers.get("age") ?? 0) || 0;
  if (response.status === 304) return { body: null, age };
  const body = await understood(response);
  if (response.headers.has("etag")) tags.set(path, response.headers.get("etag"));
  return { body, age };
}

/** Has something done; `key`: repeated with it, it is the same action. Refused: it was not done; Unreachable: that is not known. */
export async function post(path, body, { key } = {}) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers["Idempotency-Key"] = key;
  try {
    return await understood(await asked(path, { method: "POST", headers, body: JSON.stringify(body ?? {}) }, ACTION_SECONDS));
  } catch (error) {
    // It may have been stored before whatever failed: that is no refusal.
    if (error instanceof Refused && error.status >= 500) throw new Unreachable(error.message, { cause: error });
    throw error;
  }
}

export async function remove(path) {
  return understood(await asked(path, { method: "DELETE" }, ANSWER_SECONDS));
}

/** What was known of earlier answers is not believed any more: whoever looks next is somebody else, or sees nothing yet. */
export function forget() {
  tags.clear();
}

async function asked(path, options, seconds) {
  const began = Date.now();
  let response;
  try {
    response = await fetch(path, { ...options, cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(seconds * 1000) });
  } catch (error) {
    throw new Unreachable("the service does not answer", { cause: error });
  }
  const told = Date.parse(response.headers.get("date") ?? "");
  // The header has whole seconds: half of one is what it is off by on average.
  if (!Number.isNaN(told)) {
    const difference = told + 500 - (began + Date.now()) / 2;
    if (Math.abs(difference - ahead) > 1000) ahead = difference;
  }
  return response;
}

async function understood(response) {
  let body;
  try {
    body = await response.json();
  } catch (error) {
    if (response.ok) throw new Unreachable("the answer was cut off", { cause: error });
    body = {};
  }
  if (response.ok) return body;
  if (response.status === 401) onLoggedOut();
  throw new Refused(response.status, body);
}

/** All that is wrong, as one sentence each. */
export function reasonsOf(error) {
  if (!(error instanceof Refused)) return [error.message];
  const told = (error.problem.reasons ?? []).map((each) => each.message).filter(Boolean);
  return told.length ? told : [error.message];
}

/** A name for one action: pressing twice, or again after no answer, is the same one. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return "page-" + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
