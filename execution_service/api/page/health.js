// Whether the service is well: paper or live, its connections and parts, and how old what is shown is.

import { announce, byId, h, keyed, setData, setText } from "./dom.js";
import { duration } from "./format.js";

const SIGNS = { OK: "●", DEGRADED: "▲", DOWN: "✕" };
const WORDS = { OK: "All is well", DEGRADED: "Degraded", DOWN: "Down" };
const NAMES = { store: "Store", pubsub: "Pub/Sub", redis: "Redis", parts: "Parts", "safety service": "Safety service", "kill switches": "Kill switches", "kill key": "Kill key" };

const STATES = { ELSEWHERE: "worked", NOT_OPEN: "worked by nobody", AUTH_REQUIRED: "needs a log-in at the broker" };

let latest = null;
let status = "";
let mode = "";
let wasStale = false;

export function showHealth(body) {
  latest = body;
  mode = body.mode;
  setText(byId("mode"), mode);
  setData(byId("mode"), "mode", mode);
  setText(byId("version"), `Version ${body.version}`);
  showStanding(true);
  if (status && status !== body.status) announce(`The service is now ${WORDS[body.status] ?? body.status}`);
  status = body.status;
  const components = Object.entries(body.components ?? {}).filter(([name]) => !name.startsWith("broker ")).map(([name, each]) => ({ name, ...each }));
  keyed(byId("components"), components, (each) => each.name, component);
}

function component() {
  const sign = h("span", { class: "sign", "aria-hidden": "true" });
  const words = h("span");
  const node = h("li", {}, sign, words);
  return {
    node,
    update(each) {
      setData(node, "status", each.status);
      setText(sign, SIGNS[each.status] ?? "?");
      setText(words, `${NAMES[each.name] ?? each.name}: ${each.status === "OK" ? "OK" : each.status.toLowerCase()}${each.message ? `, ${each.message}` : ""}`);
    },
  };
}

/** What is old says nothing of how the service is now. */
function showStanding(isKnown) {
  const standing = byId("standing");
  const told = isKnown ? latest?.status : null;
  setText(standing, told ? `${SIGNS[told] ?? "?"} ${WORDS[told] ?? told}` : latest ? "? How it is now is not known" : "");
  standing.className = `standing ${{ OK: "good", DEGRADED: "warn", DOWN: "bad" }[told] ?? "bad"}`;
}

export function showAccounts(body) {
  keyed(byId("accounts"), body.accounts, (each) => each.account_id, account);
}

function account() {
  const sign = h("span", { class: "sign", "aria-hidden": "true" });
  const name = h("span");
  const mode = h("span");
  const state = h("span");
  const node = h("li", {}, sign, h("span", {}, name, " ", mode, " ", state));
  return {
    node,
    update(each) {
      const status = each.state === "CONNECTED" || each.state === "ELSEWHERE" ? "OK" : "DOWN";
      setData(node, "status", status);
      setText(sign, SIGNS[status]);
      setText(name, `${each.account_id}${each.broker ? `, ${each.broker.toLowerCase()},` : ","}`);
      setText(mode, each.mode);
      mode.className = each.mode === "LIVE" ? "live" : "";
      const where = each.state === "ELSEWHERE" && each.worked_by ? ` by ${each.worked_by.host}, process ${each.worked_by.pid}` : "";
      setText(state, `${STATES[each.state] ?? each.state.toLowerCase().replaceAll("_", " ")}${where}${each.trouble ? `: ${each.trouble}` : ""}`);
      node.title = each.name;
    },
  };
}

/** `age`: of the oldest part of what is shown, in seconds; `isAnswering`: the service itself answers; `why`: what failed last. */
export function showFreshness({ age, isStale, isAnswering, why, isLive, attention }) {
  const freshness = byId("freshness");
  const words = age === Infinity ? (isStale ? "STALE: no answer" : "Connecting…") : isStale ? `STALE: ${duration(age)} old` : `Updated ${age < 1 ? "now" : `${duration(age)} ago`}${isLive ? "" : ", live events off"}`;
  setText(freshness, words);
  setData(freshness, "stale", isStale);
  const lost = byId("lost");
  lost.hidden = !isStale;
  showStanding(!isStale || isAnswering);
  setData(byId("strip"), "stale", isStale && !isAnswering);
  if (isStale) setText(lost, isAnswering ? `Some of what is shown is old: ${why}. Do not rely on it.` : "The connection is lost, or the service does not answer. What is shown may be old: do not rely on it.");
  if (isStale !== wasStale) {
    if (!isStale) announce("The connection is back; what is shown is current");
    wasStale = isStale;
  }
  document.title = `${isStale ? "STALE – " : ""}${attention ? `(${attention}) ` : ""}${mode ? `${mode} – ` : ""}Execution service`;
}
