// Whether the service is well: paper or live, its connections and parts, and how old what is shown is.

import { announce, byId, h, keyed, setData, setText } from "./dom.js";
import { duration } from "./format.js";

const SIGNS = { OK: "●", DEGRADED: "▲", DOWN: "✕" };
const WORDS = { OK: "All is well", DEGRADED: "Degraded", DOWN: "Down" };
const NAMES = { store: "Store", pubsub: "Pub/Sub", redis: "Redis", parts: "Parts", "safety service": "Safety service" };

let status = "";
let mode = "";
let wasStale = false;

export function showHealth(body) {
  mode = body.mode;
  setText(byId("mode"), mode);
  setData(byId("mode"), "mode", mode);
  setText(byId("version"), `Version ${body.version}`);
  const standing = byId("standing");
  setText(standing, `${SIGNS[body.status] ?? "?"} ${WORDS[body.status] ?? body.status}`);
  standing.className = `standing ${{ OK: "good", DEGRADED: "warn", DOWN: "bad" }[body.status] ?? ""}`;
  if (status && status !== body.status) announce(`The service is now ${WORDS[body.status] ?? body.status}`);
  status = body.status;
  const components = Object.entries(body.components ?? {}).map(([name, each]) => ({ name, ...each }));
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
      const name = each.name.startsWith("broker ") ? `Account ${each.name.slice(7)}` : NAMES[each.name] ?? each.name;
      setText(words, `${name}: ${each.status === "OK" ? "OK" : each.status.toLowerCase()}${each.message ? `, ${each.message}` : ""}`);
    },
  };
}

/** `age`: of the oldest part of what is shown, in seconds. */
export function showFreshness({ age, isStale, isLive, attention }) {
  const freshness = byId("freshness");
  const words = age === Infinity ? (isStale ? "STALE: no answer" : "Connecting…") : isStale ? `STALE: ${duration(age)} old` : `Updated ${age < 1 ? "now" : `${duration(age)} ago`}${isLive ? "" : ", live events off"}`;
  setText(freshness, words);
  setData(freshness, "stale", isStale);
  const lost = byId("lost");
  lost.hidden = !isStale;
  if (isStale !== wasStale) {
    setText(lost, isStale ? "The connection is lost, or the service does not answer. What is shown may be old: do not rely on it." : "");
    if (!isStale) announce("The connection is back; what is shown is current");
    wasStale = isStale;
  }
  document.title = `${isStale ? "STALE – " : ""}${attention ? `(${attention}) ` : ""}${mode ? `${mode} – ` : ""}Execution service`;
}
