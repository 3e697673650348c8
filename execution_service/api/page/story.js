// The story of one order as a time line: all that was recorded of it, in its sequence, in words.

import { open } from "./dialogs.js";
import { h, keyed } from "./dom.js";
import { DASH, figure, moment, momentExactly, profit, words } from "./format.js";
import { get, now, reasonsOf } from "./server.js";
import { may } from "./session.js";
import { ENDED, askToCancel, titleOf } from "./orders.js";

let shown = null;

/** By any name that the service knows it by; a signal may have several orders. */
export async function openStory(name) {
  const content = h("div", {}, h("p", { class: "muted", text: "Loading…" }));
  const mine = { name, content };
  // A browser tells of a close a moment after it: by then the next one may be open.
  open("Order", () => content, { kind: "story", hasClose: true, onClose: () => { if (shown === mine) shown = null; } });
  shown = mine;
  await refresh();
}

/** Where its story is open, an event told of an order has it read again. */
export function storyTold(orderId) {
  if (shown?.ids?.has(orderId)) refresh();
}

async function refresh() {
  const mine = shown;
  try {
    const found = await get(`api/execution/orders/${encodeURIComponent(mine.name)}`);
    if (shown !== mine) return;
    mine.ids = new Set(found.orders.map((order) => order.order_id));
    if (!mine.list) {
      mine.list = h("div");
      mine.content.replaceChildren(mine.list);
    }
    keyed(mine.list, found.orders, (order) => `${order.order_id} ${order.version}`, (order) => ({ node: storyOf(order) }));
  } catch (error) {
    if (shown === mine && !mine.list) mine.content.replaceChildren(h("ul", { class: "bad" }, reasonsOf(error).map((text) => h("li", { text }))));
  }
}

function storyOf(order) {
  const at = now();
  const cancel = !ENDED.has(order.status) && may("operator") ? h("button", { type: "button", text: "Cancel…", on: { click: () => askToCancel(order, refresh) } }) : null;
  return h("article", {},
    h("h3", { class: "order-title", text: titleOf(order) }),
    facts([
      ["Status", words(order.status)],
      ["Filled", `${figure(order.filled_quantity)} of ${figure(order.quantity)}`],
      ["Average price", order.average_price && figure(order.average_price)],
      ["Slippage", order.quality.slippage_bps && `${profit(order.quality.slippage_bps)} basis points against ${figure(order.quality.benchmark_price)}, where the ${order.quality.benchmark === "STOP" ? "stop" : "market"} was`],
      ["Value", order.value && money(order.value, order.currency)],
      ["Commission", figure(order.commission)],
      ["Realized profit", order.realized_pnl && profit(order.realized_pnl, order.currency)],
      ["Account", order.account_id],
      ["Strategy", order.strategy],
      ["Purpose", words(order.purpose)],
      ["Signal", order.signal_id],
      ["Order", order.order_id],
      ["At the broker", order.broker_order_id],
      ["Received", moment(order.received_at, at)],
      ["Stop loss", order.stop_loss],
      ["Take profit", order.take_profit],
      ["Protection", order.protection && `${words(order.protection.state)}${order.protection.reason ? `: ${order.protection.reason}` : ""}`],
    ]),
    order.reason ? h("p", { class: "outcome", data: { weight: "bad" } }, h("strong", { text: `${words(order.reason.code)}: ` }), order.reason.message) : null,
    order.events_left_out ? h("p", { class: "muted", text: `${order.events_left_out} events in the middle are left out.` }) : null,
    h("ol", { class: "timeline", "aria-label": "What happened" }, order.events.map((event) => h("li", { data: { weight: weightOf(event) } },
      h("span", { class: "when" }, h("time", { datetime: event.at, title: new Date(event.at).toString(), text: momentExactly(event.at) }), ` ${DASH} ${words(event.status)}`),
      h("div", { text: event.words })))),
    order.fills.length ? fillsOf(order) : null,
    h("details", {}, h("summary", { text: "The message as it came" }), h("pre", { tabindex: "0", text: order.raw })),
    cancel ? h("div", { class: "buttons" }, cancel) : null);
}

function money(value, currency) {
  return currency ? `${figure(value)} ${currency}` : figure(value);
}

function weightOf(event) {
  if (["Rejected", "Doubted", "CancelRefused", "Busted"].includes(event.type)) return "bad";
  return ["Filled", "Completed"].includes(event.type) ? "good" : "";
}

function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => h("div", {}, h("dt", { text: name }), h("dd", { text: value }))));
}

function fillsOf(order) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Fills" }, h("table", {}, h("caption", { class: "visually-hidden", text: "Fills" }),
    h("thead", {}, h("tr", {}, ["Fill", "Quantity", "Price", "Commission", "Time"].map((text, place) => h("th", { scope: "col", class: place && place < 4 ? "number" : null, text })))),
    h("tbody", {}, order.fills.map((fill) => h("tr", {}, h("th", { scope: "row", class: "name id", text: `${fill.fill_id}${fill.is_annulled ? " (annulled)" : ""}` }), h("td", { class: "number", text: figure(fill.quantity) }), h("td", { class: "number", text: figure(fill.price) }),
      h("td", { class: "number", text: `${figure(fill.commission)}${fill.commission_currency ? ` ${fill.commission_currency}` : ""}` }), h("td", { class: "nowrap", text: moment(fill.time, now()) }))))));
}
