// Orders: filtered, in pages, as they are now; each leads to its story, and each that goes on can be cancelled, one or all.

import { confirm } from "./dialogs.js";
import { byId, cardRow, cards, h, keyed, setText } from "./dom.js";
import { cut, duration, figure, many, moment, sinceSeconds, words } from "./format.js";
import { get, now, post, reasonsOf } from "./server.js";
import { may } from "./session.js";
import { openStory } from "./story.js";

export const ENDED = new Set(["FILLED", "REJECTED", "CANCELLED", "EXPIRED"]);
export const BAD = new Set(["IN_DOUBT", "REJECTED"]);
const ROWS = 50;
const AT_ONCE = 4;
const NOT_KNOWN = "Look at the order's story before it is tried again.";

const filters = { status: "open", account: "", strategy: "", symbol: "" };
const cursors = [];
let onAsked = () => {};
let next = null;
let shown = new Map();
let parts = null;

export function path() {
  return asked(ROWS, cursors.at(-1));
}

function asked(limit, cursor) {
  const query = new URLSearchParams({ limit: String(limit) });
  for (const [name, value] of Object.entries(filters)) if (value) query.set(name, value);
  if (cursor) query.set("cursor", cursor);
  return `api/execution/orders?${query}`;
}

/** `ask`: has the list asked for again. */
export function begin(ask) {
  onAsked = ask;
  const status = h("select", {}, [["open", "Not ended"], ["in_doubt", "In doubt"], ["pending", "Pending"], ["submitting", "Submitting"], ["submitted", "Submitted"], ["partially_filled", "Partially filled"], ["filled", "Filled"], ["rejected", "Rejected"], ["cancelled", "Cancelled"], ["expired", "Expired"], ["", "All"]].map(([value, text]) => h("option", { value, text })));
  status.addEventListener("change", () => choose("status", status.value));
  const text = (name) => {
    const input = h("input", { type: "text", autocomplete: "off", spellcheck: "false", list: `known-${name}` });
    input.addEventListener("change", () => choose(name, name === "symbol" ? input.value.trim().toUpperCase() : input.value.trim()));
    return input;
  };
  const cancelAll = h("button", { type: "button", text: "Cancel all…", on: { click: askToCancelAll } });
  const rows = h("tbody");
  const table = cards("Orders", [["Order", null], ["Status", null], ["Filled", "number"], ["Age or end", "number"], ["Account", "minor"], ["Strategy", "minor"], ["", "actions"]], rows);
  const empty = h("p", { class: "empty" });
  const newer = h("button", { type: "button", class: "small", text: "Newer", on: { click: () => { cursors.pop(); turned(); } } });
  const older = h("button", { type: "button", class: "small", text: "Older", on: { click: () => { if (next) cursors.push(next); turned(); } } });
  const place = h("span");
  const pager = h("div", { class: "pager" }, newer, older, place);
  const bar = h("div", { class: "filters" }, h("label", {}, "Show", status), h("label", {}, "Account", text("account")), h("label", {}, "Strategy", text("strategy")), h("label", {}, "Symbol", text("symbol")), h("span", { class: "end" }, cancelAll));
  byId("orders").querySelector(".content").append(bar, h("div", { class: "scroll" }, table), empty, pager);
  parts = { rows, table, empty, newer, older, place, pager, cancelAll, count: h("span", { class: "count" }) };
  byId("orders-title").append(" ", parts.count);
  setInterval(() => { for (const row of shown.values()) row.tick(); }, 1000);
}

function choose(name, value) {
  filters[name] = value;
  cursors.length = 0;
  onAsked();
}

function turned() {
  onAsked();
}

export function showOrders(body) {
  next = body.next === null ? null : new URLSearchParams(body.next.split("?")[1]).get("cursor");
  const rows = new Map();
  keyed(parts.rows, body.orders, (order) => order.order_id, (order) => { const row = orderRow(order); rows.set(order.order_id, row); return row; });
  for (const order of body.orders) rows.set(order.order_id, rows.get(order.order_id) ?? shown.get(order.order_id));
  shown = rows;
  parts.table.hidden = body.orders.length === 0;
  const isFiltered = filters.account || filters.strategy || filters.symbol;
  setText(parts.empty, body.orders.length ? "" : cursors.length ? "No older orders." : filters.status === "open" && !isFiltered ? "No order is at work." : "No order is as these filters ask.");
  parts.empty.hidden = body.orders.length > 0;
  parts.newer.disabled = cursors.length === 0;
  parts.older.disabled = next === null;
  parts.pager.hidden = cursors.length === 0 && next === null;
  setText(parts.place, `Page ${cursors.length + 1}`);
  setText(parts.count, body.orders.length ? `${body.orders.length}${next || cursors.length ? "+" : ""}` : "");
  parts.cancelAll.hidden = !may("operator") || !body.orders.some((order) => !ENDED.has(order.status));
}

/** An event told of an order: shown at once, before the list is asked for again. */
export function showEvent(told) {
  const row = shown.get(told.order_id);
  if (row && told.version > row.order.version) row.update({ ...row.order, ...told });
}

export function titleOf(order) {
  const price = isTold(order.limit_price) ? ` at ${figure(order.limit_price)}` : "";
  const stop = isTold(order.stop_price) ? `, stop ${figure(order.stop_price)}` : "";
  const what = [order.side, isTold(order.quantity) ? figure(order.quantity) : "", order.symbol].filter(Boolean).join(" ");
  return `${what || "Order that names nothing"}${order.order_type ? `, ${words(order.order_type)}` : ""}${price}${stop}`;
}

function isTold(value) {
  return value !== null && value !== undefined;
}

function orderRow(first) {
  const name = h("button", { type: "button", class: "link" });
  const purpose = h("span", { class: "muted" });
  const status = h("span", { class: "status" });
  const reason = h("span", { class: "muted clip" });
  const filled = h("td", { class: "number", data: { label: "filled" } });
  const age = h("td", { class: "number nowrap" });
  const account = h("span", { class: "clip" });
  const strategy = h("span", { class: "clip" });
  const cancel = h("button", { type: "button", class: "small", text: "Cancel" });
  const node = cardRow(h("th", { scope: "row", class: "name" }, name, " ", purpose), h("td", { class: "words" }, status, reason), filled, age, h("td", { class: "minor name" }, account), h("td", { class: "minor name" }, strategy), h("td", { class: "actions" }, cancel));
  const row = {
    node,
    order: first,
    update(order) {
      row.order = order;
      setText(name, titleOf(order));
      setText(purpose, order.purpose === "EXIT" ? "exit" : "");
      setText(status, words(order.status));
      status.className = `status ${BAD.has(order.status) ? "bad" : order.status === "FILLED" ? "good" : ""}`;
      setText(reason, order.reason ? order.reason.message : "");
      reason.title = order.reason ? order.reason.message : "";
      setText(filled, `${figure(order.filled_quantity)}${order.average_price === null ? "" : ` at ${cut(order.average_price)}`}`);
      setText(account, order.account_id ?? "");
      setText(strategy, order.strategy ?? "");
      strategy.title = order.strategy ?? "";
      cancel.hidden = ENDED.has(order.status) || !may("operator");
      cancel.setAttribute("aria-label", `Cancel ${titleOf(order)}`);
      row.tick();
    },
    tick() {
      const { order } = row;
      setText(age, order.finished_at ? moment(order.finished_at, now()) : duration(sinceSeconds(order.received_at, now())));
    },
  };
  name.addEventListener("click", () => openStory(row.order.order_id));
  cancel.addEventListener("click", () => askToCancel(row.order));
  return row;
}

export function askToCancel(order, then = () => {}) {
  confirm(`Cancel ${titleOf(order)}?`, order.purpose === "EXIT" ? "This is an exit: what it was to close stays open." : "What has filled by then stays filled.", "Cancel the order", async (_, key) => {
    const said = await post(`api/execution/orders/${encodeURIComponent(order.order_id)}/cancel`, { reason: "cancelled on the page" }, { key });
    onAsked();
    then();
    return { text: said.message };
  }, NOT_KNOWN);
}

function askToCancelAll() {
  const name = [filters.account && `account ${filters.account}`, filters.strategy && `strategy ${filters.strategy}`, filters.symbol && `symbol ${filters.symbol}`].filter(Boolean).join(", ");
  const meant = { ...filters, status: ENDED.has(filters.status.toUpperCase()) || filters.status === "" ? "open" : filters.status };
  const which = `${meant.status === "open" ? "that has not ended" : `that is ${words(meant.status)}`}${name ? ` of ${name}` : ""}`;
  confirm("Cancel all orders?", `Every order ${which} is asked to be cancelled, exits too. New ones are not stopped by this: for that, stop trading.`, "Cancel them all", async (progress, key) => {
    const orders = await allOf(meant);
    let done = 0;
    const failures = [];
    const waiting = [...orders];
    const work = async () => {
      for (let order = waiting.shift(); order; order = waiting.shift()) {
        try {
          await post(`api/execution/orders/${encodeURIComponent(order.order_id)}/cancel`, { reason: "all cancelled on the page" }, { key });
        } catch (error) {
          failures.push(`${titleOf(order)}: ${reasonsOf(error).join("; ")}`);
        }
        progress(`Asked for ${++done} of ${orders.length}`);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    onAsked();
    const text = `${many(orders.length - failures.length, "cancel was", "cancels were")} asked for${failures.length ? `; ${failures.length} not, or it is not known:` : "."}`;
    return { text, weight: failures.length ? "warn" : "good", list: failures.slice(0, 20) };
  }, NOT_KNOWN);
}

async function allOf(meant) {
  const found = [];
  let cursor = null;
  do {
    const query = new URLSearchParams({ limit: "1000" });
    for (const [name, value] of Object.entries(meant)) if (value) query.set(name, value);
    if (cursor) query.set("cursor", cursor);
    const page = await get(`api/execution/orders?${query}`);
    found.push(...page.orders.filter((order) => !ENDED.has(order.status)));
    cursor = page.next === null ? null : new URLSearchParams(page.next.split("?")[1]).get("cursor");
  } while (cursor);
  return found;
}
