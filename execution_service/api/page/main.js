// Begins the page: who we are, then what is asked for and how often, and the live events that have it asked for sooner.

import * as attention from "./attention.js";
import { announce, byId, setData, setText } from "./dom.js";
import { moment } from "./format.js";
import { showAccounts, showFreshness, showHealth } from "./health.js";
import * as limits from "./limits.js";
import * as orders from "./orders.js";
import { showPace } from "./pace.js";
import { Polling } from "./polling.js";
import * as positions from "./positions.js";
import { forget, now, whenLoggedOut } from "./server.js";
import * as session from "./session.js";
import { storyTold } from "./story.js";
import * as switches from "./switches.js";

const STALE_SECONDS = 8;
/** Lists are kept by the service and by the process in front of it, a second each. */
const KEPT_MS = 2300;
const SECTIONS = ["attention", "orders", "positions", "switches", "limits", "pace"];

let urgent = 0;
let stream = null;
let isLive = false;

const polling = new Polling({
  health: { path: () => "health", every: 2, silentAfter: STALE_SECONDS, show: showHealth },
  accounts: { path: () => "api/execution/accounts", every: 3, silentAfter: STALE_SECONDS, show: accounts },
  attention: { path: () => "api/execution/attention", every: 3, silentAfter: STALE_SECONDS, show: (body) => { urgent = attention.showAttention(body); } },
  orders: { path: orders.path, every: 3, silentAfter: STALE_SECONDS, show: listed },
  positions: { path: () => "api/execution/holdings", every: 3, silentAfter: STALE_SECONDS, show: holdings },
  switches: { path: () => "api/execution/kill", every: 2, silentAfter: STALE_SECONDS, show: switches.showSwitches },
  limits: { path: () => "api/execution/limits", every: 3, silentAfter: STALE_SECONDS, show: limitsTold },
  pace: { path: () => "api/execution/pace", every: 10, silentAfter: 25, show: showPace },
});

function accounts(body) {
  showAccounts(body);
  for (const each of body.accounts) switches.learn("account", each.account_id);
}

function limitsTold(body) {
  limits.showLimits(body);
  urgent = attention.showBroken(body.off_until_enabled);
}

function listed(body) {
  orders.showOrders(body);
  for (const each of body.orders) learn(each);
}

function holdings(body) {
  positions.showPositions(body);
  for (const each of body.holdings) learn(each);
}

function learn(each) {
  switches.learn("account", each.account_id);
  switches.learn("strategy", each.strategy);
  switches.learn("symbol", each.symbol);
}

const again = debounced(["orders", "positions", "attention", "limits"]);

/** At once, and once more when the lists must have what has just happened. */
function debounced(names) {
  let soon = 0;
  let later = 0;
  const ask = () => { for (const name of names) polling.ask(name); };
  return () => {
    if (!soon) soon = setTimeout(() => { soon = 0; ask(); }, 200);
    clearTimeout(later);
    later = setTimeout(ask, KEPT_MS);
  };
}

function done() {
  for (const name of SECTIONS) polling.ask(name);
  setTimeout(() => { for (const name of SECTIONS) polling.ask(name); }, KEPT_MS);
}

function listen() {
  stream?.close();
  stream = new EventSource("api/execution/events");
  const mine = stream;
  mine.addEventListener("open", () => { isLive = true; });
  mine.addEventListener("order", (event) => {
    const told = JSON.parse(event.data);
    orders.showEvent(told);
    storyTold(told.order_id);
    again();
  });
  mine.addEventListener("resync", () => polling.askAll());
  mine.addEventListener("error", () => {
    isLive = false;
    // A browser comes again by itself, and names the last event that it had, unless it was refused.
    if (mine.readyState === EventSource.CLOSED && mine === stream) setTimeout(() => { if (mine === stream && polling.isRunning) listen(); }, 5000);
  });
}

function loggedIn() {
  forget();
  polling.start();
  if (!document.hidden) listen();
}

function loggedOut() {
  polling.stop();
  stream?.close();
  stream = null;
  isLive = false;
}

function tick() {
  const names = ["health", "accounts", ...SECTIONS];
  let isStale = false;
  let age = 0;
  for (const name of names) {
    const stale = polling.isRunning && polling.isStale(name);
    isStale ||= stale;
    if (name !== "pace") age = Math.max(age, polling.age(name));
    if (SECTIONS.includes(name)) mark(name, stale);
  }
  const isLost = polling.isRunning && isStale;
  const isAnswering = !polling.isStale("health") && !hasNeverAnswered();
  const why = names.map((name) => (polling.isStale(name) ? polling.failure(name)?.message : null)).find(Boolean) ?? "no answer";
  showFreshness({ age: polling.isRunning ? age : Infinity, isStale: isLost || hasNeverAnswered(), isAnswering, why, isLive, attention: urgent });
}

let startedAt = performance.now();

function hasNeverAnswered() {
  return polling.isRunning && polling.age("health") === Infinity && performance.now() - startedAt > STALE_SECONDS * 1000;
}

function mark(name, stale) {
  const section = byId(name);
  setData(section, "stale", stale);
  const failure = polling.failure(name);
  const words = polling.age(name) === Infinity ? (failure ? failure.message : "Loading…") : stale ? `as of ${moment(new Date(now() - polling.age(name) * 1000).toISOString(), now())}: ${failure?.message ?? "no answer"}` : "";
  setText(section.querySelector(".as-of"), words);
}

async function start() {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  setText(byId("zone"), `Times are those of ${zone}`);
  switches.begin(done);
  attention.begin(done);
  orders.begin(() => { polling.ask("orders"); setTimeout(() => polling.ask("orders"), KEPT_MS); });
  positions.begin();
  limits.begin(done);
  const out = () => { loggedOut(); };
  const came = () => { startedAt = performance.now(); loggedIn(); };
  whenLoggedOut(() => session.ended(came, out));
  setInterval(tick, 500);
  document.addEventListener("visibilitychange", () => {
    // A browser has six connections to a service: pages that nobody looks at must not hold them all.
    if (document.hidden) {
      stream?.close();
      stream = null;
      return;
    }
    if (polling.isRunning) listen();
    polling.askAll();
    tick();
  });
  for (let isKnown = false; !isKnown;) {
    try {
      await session.begin(came, out);
      isKnown = true;
    } catch (error) {
      announce(error.message);
      setText(byId("freshness"), `STALE: ${error.message}`);
      setData(byId("freshness"), "stale", true);
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}

start();
